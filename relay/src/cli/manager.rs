//! Tells a service manager such as systemd how it goes (`sd_notify(3)`); says nothing where there is
//! none.

/// The relay serves, and this process is the one to watch.
pub(super) fn ready() {
    tell(&format!("READY=1\nMAINPID={}", std::process::id()));
}

/// The relay was told to stop.
pub(super) fn stopping() {
    tell("STOPPING=1");
}

#[cfg(unix)]
fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "the service manager does not hear");
    }
}

#[cfg(not(unix))]
fn tell(_: &str) {}

#[cfg(unix)]
fn send(socket: &std::ffi::OsStr, state: &str) -> std::io::Result<()> {
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    #[cfg(target_os = "linux")]
    if let Some(name) = socket.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        let address = SocketAddr::from_abstract_name(name)?;
        return UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop);
    }
    let address = SocketAddr::from_pathname(socket)?;
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_manager_hears_what_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1\nMAINPID=7").unwrap();
        let mut heard = [0; 64];
        let length = manager.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1\nMAINPID=7");
        drop(manager);
        assert!(send(path.as_os_str(), "STOPPING=1").is_err());
    }
}
