//! Errors between the eras: some codes of each mean nothing, or something else, in the other.

use serde_json::value::RawValue;

use super::{InputRequired, Question, declares, input_request, may_ask};
use crate::mcp::message::{
    HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, MISSING_CAPABILITY, UNSUPPORTED_VERSION,
};
use crate::mcp::object::Object;

/// Code of a resource that does not exist, before 2026-07-28.
const RESOURCE_NOT_FOUND: i64 = -32002;
/// Code of a request that needs the user to visit a URL first (2025-11-25 only).
pub const URL_REQUIRED: i64 = -32042;

/// What the error of a legacy server is to a modern client.
#[derive(Clone, Debug)]
pub enum Failure {
    /// An error: the text of the error object.
    Error(String),
    /// A result that asks for input; it has no state, the retry is a new request to the server.
    Input(InputRequired),
}

/// Translates the error of a legacy server.
///
/// `capabilities` are what the modern client declared with this request.
#[must_use]
pub fn modern_error(method: &str, error: &RawValue, capabilities: Option<&RawValue>) -> Failure {
    let Some(members) = Object::of(error) else { return Failure::Error(error.get().to_owned()) };
    match code(&members) {
        Some(RESOURCE_NOT_FOUND) => Failure::Error(recoded(members, INVALID_PARAMS)),
        Some(URL_REQUIRED) => url_required(method, error, members, capabilities),
        // A legacy server may use these for anything; to a modern client they would mean us.
        Some(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION) => {
            Failure::Error(wrapped(error, members, INTERNAL_ERROR))
        }
        _ => Failure::Error(error.get().to_owned()),
    }
}

/// Translates the error of a modern server; returns the text of the error object.
///
/// The codes of the modern era are about the gateway's own request, so they are failures inside,
/// with the original in `data.upstream`. A version that is not served is -32602, as the legacy
/// lifecycle has it.
#[must_use]
pub fn legacy_error(error: &RawValue) -> String {
    let Some(members) = Object::of(error) else { return error.get().to_owned() };
    match code(&members) {
        Some(HEADER_MISMATCH | MISSING_CAPABILITY) => wrapped(error, members, INTERNAL_ERROR),
        Some(UNSUPPORTED_VERSION) => wrapped(error, members, INVALID_PARAMS),
        _ => error.get().to_owned(),
    }
}

fn url_required(
    method: &str,
    error: &RawValue,
    mut members: Object,
    capabilities: Option<&RawValue>,
) -> Failure {
    let data = members.get_object("data").unwrap_or_default();
    let pages = data.get_array("elicitations").unwrap_or_default();
    let pages: Vec<Object> =
        pages.into_iter().filter_map(Object::of).filter(|page| page.contains("url")).collect();
    if pages.is_empty() || !may_ask(method) {
        return Failure::Error(wrapped(error, members, INTERNAL_ERROR));
    }
    if !capabilities.is_some_and(|declared| declares(declared, Question::ElicitationUrl)) {
        let required = RawValue::from_string(Question::ElicitationUrl.required().to_owned());
        let required = required.expect("the capability is JSON");
        members.edit_in("data", |data| data.set("requiredCapabilities", required));
        return Failure::Error(recoded(members, MISSING_CAPABILITY));
    }
    let requests = pages.into_iter().enumerate().map(|(at, mut page)| {
        page.set_str("mode", "url");
        input_request("elicitation/create", Some(&page.to_raw()), &format!("url-{}", at + 1))
    });
    Failure::Input(InputRequired { requests: requests.collect(), state: None })
}

fn code(error: &Object) -> Option<i64> {
    serde_json::from_str(error.get("code")?.get()).ok()
}

fn recoded(mut error: Object, code: i64) -> String {
    error.set_int("code", code);
    error.to_string()
}

fn wrapped(original: &RawValue, mut error: Object, code: i64) -> String {
    let mut data = Object::new();
    data.set("upstream", original.to_owned());
    error.set_object("data", &data);
    recoded(error, code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn modern(method: &str, error: &str, capabilities: &str) -> String {
        match modern_error(method, &raw(error), Some(&raw(capabilities))) {
            Failure::Error(text) => text,
            Failure::Input(asked) => asked.to_result(),
        }
    }

    const VISIT: &str = r#"{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"e","url":"https://x.test/","message":"k"}]}}"#;

    #[test]
    fn a_missing_resource_is_a_wrong_parameter_with_its_data() {
        assert_eq!(
            modern("resources/read", r#"{"code":-32002,"message":"no","data":{"uri":"u"}}"#, "{}"),
            r#"{"code":-32602,"message":"no","data":{"uri":"u"}}"#
        );
    }

    #[test]
    fn a_url_to_visit_becomes_a_question_when_the_client_can_golden() {
        assert_eq!(
            modern("tools/call", VISIT, r#"{"elicitation":{"url":{}}}"#),
            r#"{"resultType":"input_required","inputRequests":{"url-1":{"method":"elicitation/create","params":{"mode":"url","url":"https://x.test/","message":"k"}}}}"#
        );
    }

    #[test]
    fn a_url_to_visit_names_the_missing_capability_when_the_client_cannot() {
        let error = modern("tools/call", VISIT, r#"{"elicitation":{}}"#);
        assert!(error.starts_with(r#"{"code":-32021,"message":"m","#), "{error}");
        assert!(error.contains(r#""requiredCapabilities":{"elicitation":{"url":{}}}"#), "{error}");
    }

    #[test]
    fn a_url_to_visit_is_a_failure_where_nothing_can_be_asked() {
        for (method, error) in [
            ("tools/list", VISIT),
            ("tools/call", r#"{"code":-32042,"message":"m"}"#),
            ("tools/call", r#"{"code":-32042,"message":"m","data":{"elicitations":[3,{}]}}"#),
        ] {
            let told = modern(method, error, r#"{"elicitation":{"url":{}}}"#);
            assert!(told.starts_with(r#"{"code":-32603,"message":"m","#), "{told}");
            assert!(told.contains(error), "{told}");
        }
    }

    #[test]
    fn codes_of_one_era_do_not_leak_into_the_other() {
        for code in [-32020, -32021] {
            let error = format!(r#"{{"code":{code},"message":"m","data":[ 1 ]}}"#);
            let expected =
                format!(r#"{{"code":-32603,"message":"m","data":{{"upstream":{error}}}}}"#);
            assert_eq!(legacy_error(&raw(&error)), expected);
            assert_eq!(modern("x", &error, "{}"), expected);
        }
        let version = raw(r#"{"code":-32022,"message":"m"}"#);
        assert!(legacy_error(&version).starts_with(r#"{"code":-32602,"#));
    }

    #[test]
    fn other_errors_pass_byte_for_byte() {
        for text in [
            r#"{ "code":-32000, "message":"own","data":1.0 }"#,
            r#"{"code":42,"message":""}"#,
            r#"{"code":1e400}"#,
            "7",
        ] {
            assert_eq!(modern("x", text, "{}"), text);
            assert_eq!(legacy_error(&raw(text)), text);
        }
    }
}
