//! From when until when a certificate is good, and when that is worth a word. Pure.

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate of a year is not worth a word three months before its end.
const MOST_NOTICE: u64 = 21 * 24 * 3600;

/// From when until when a certificate is good, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    None,
    /// Renewals should have come by now: they are due after two thirds of a certificate's life.
    Soon,
    Over,
}

impl Validity {
    /// Reads it from a certificate; `None` when that is not X.509.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let at = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let validity = cert.validity();
        Some(Self { not_before: at(validity.not_before), not_after: at(validity.not_after) })
    }

    pub(super) fn life(self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }

    pub(super) fn alarm(self, now: u64) -> Alarm {
        let left = self.not_after.saturating_sub(now);
        if left == 0 {
            Alarm::Over
        } else if left < (self.life() / 4).min(MOST_NOTICE) {
            Alarm::Soon
        } else {
            Alarm::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    #[test]
    fn it_is_read_from_the_certificate() {
        let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2024, 1, 2);
        let cert = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let validity = Validity::of(cert.der()).unwrap();
        assert_eq!(validity.not_before, 1_704_067_200);
        assert_eq!(validity.life(), DAY);
        assert_eq!(Validity::of(b"nothing"), None);
    }

    #[test]
    fn an_end_is_near_when_renewal_is_late() {
        let alarm = |life, left| Validity { not_before: 0, not_after: life }.alarm(life - left);
        assert_eq!(alarm(90 * DAY, 30 * DAY), Alarm::None);
        assert_eq!(alarm(90 * DAY, 20 * DAY), Alarm::Soon);
        assert_eq!(alarm(365 * DAY, 22 * DAY), Alarm::None);
        assert_eq!(alarm(6 * DAY, 2 * DAY), Alarm::None);
        assert_eq!(alarm(6 * DAY, DAY), Alarm::Soon);
        assert_eq!(alarm(6 * DAY, 0), Alarm::Over);
    }
}
