//! What servers ask clients, and which capability each question needs.

use serde_json::value::RawValue;

use crate::mcp::object::Object;

/// A kind of question that a client answers if it declared the capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// `sampling/createMessage`.
    Sampling,
    /// `sampling/createMessage` with tools.
    SamplingTools,
    /// `sampling/createMessage` with the context of servers.
    SamplingContext,
    /// `elicitation/create` with a form.
    ElicitationForm,
    /// `elicitation/create` with a URL to visit.
    ElicitationUrl,
    /// `roots/list`.
    Roots,
}

impl Question {
    /// Tells what a request of a server asks; `None` for a method that is no such question.
    ///
    /// `includeContext` alone is no question of its own: clients without `sampling.context` may
    /// ignore it (2025-11-25 §Sampling).
    #[must_use]
    pub fn of(method: &str, params: Option<&RawValue>) -> Option<Self> {
        let params = || params.and_then(Object::of).unwrap_or_default();
        match method {
            "roots/list" => Some(Self::Roots),
            "sampling/createMessage" => {
                let params = params();
                let tools = params.contains("tools") || params.contains("toolChoice");
                Some(if tools { Self::SamplingTools } else { Self::Sampling })
            }
            "elicitation/create" => {
                let url = params().get_str("mode").is_some_and(|mode| mode == "url");
                Some(if url { Self::ElicitationUrl } else { Self::ElicitationForm })
            }
            _ => None,
        }
    }

    /// Returns the client capabilities that the question needs, as JSON: the
    /// `requiredCapabilities` of -32021.
    #[must_use]
    pub fn required(self) -> &'static str {
        match self {
            Self::Sampling => r#"{"sampling":{}}"#,
            Self::SamplingTools => r#"{"sampling":{"tools":{}}}"#,
            Self::SamplingContext => r#"{"sampling":{"context":{}}}"#,
            Self::ElicitationForm => r#"{"elicitation":{"form":{}}}"#,
            Self::ElicitationUrl => r#"{"elicitation":{"url":{}}}"#,
            Self::Roots => r#"{"roots":{}}"#,
        }
    }
}

/// Tells whether client capabilities, of either era, declare that a question may be asked.
///
/// `elicitation` without a mode means forms (2025-11-25 §Elicitation).
#[must_use]
pub fn declares(capabilities: &RawValue, question: Question) -> bool {
    let Some(capabilities) = Object::of(capabilities) else { return false };
    let has = |object: &Object, name: &str| object.get_object(name).is_some();
    match question {
        Question::Roots => has(&capabilities, "roots"),
        Question::Sampling => has(&capabilities, "sampling"),
        Question::SamplingTools | Question::SamplingContext => {
            let part = if question == Question::SamplingTools { "tools" } else { "context" };
            capabilities.get_object("sampling").is_some_and(|sampling| has(&sampling, part))
        }
        Question::ElicitationForm => capabilities
            .get_object("elicitation")
            .is_some_and(|modes| has(&modes, "form") || !modes.contains("url")),
        Question::ElicitationUrl => {
            capabilities.get_object("elicitation").is_some_and(|modes| has(&modes, "url"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Question; 6] = [
        Question::Sampling,
        Question::SamplingTools,
        Question::SamplingContext,
        Question::ElicitationForm,
        Question::ElicitationUrl,
        Question::Roots,
    ];

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn capabilities_declare_what_they_name_and_nothing_else() {
        let declared = |text: &str| {
            let capabilities = raw(text);
            ALL.into_iter().filter(|ask| declares(&capabilities, *ask)).collect::<Vec<_>>()
        };
        assert_eq!(declared(r#"{"elicitation":{}}"#), [Question::ElicitationForm]);
        assert_eq!(declared(r#"{"elicitation":{"url":{}}}"#), [Question::ElicitationUrl]);
        assert_eq!(
            declared(r#"{"elicitation":{"form":{"applyDefaults":true},"url":{}}}"#),
            [Question::ElicitationForm, Question::ElicitationUrl]
        );
        assert_eq!(declared(r#"{"sampling":{}}"#), [Question::Sampling]);
        assert_eq!(
            declared(r#"{"sampling":{"tools":{},"context":{}},"roots":{"listChanged":true}}"#),
            [
                Question::Sampling,
                Question::SamplingTools,
                Question::SamplingContext,
                Question::Roots
            ]
        );
        for nothing in ["{}", "null", r#"{"roots":null,"sampling":false,"elicitation":"url"}"#] {
            assert_eq!(declared(nothing), []);
        }
    }

    #[test]
    fn what_a_question_requires_declares_it() {
        for question in ALL {
            assert!(declares(&raw(question.required()), question), "{question:?}");
        }
    }

    #[test]
    fn a_question_is_told_by_method_and_parameters() {
        let of = |method, params: &str| Question::of(method, Some(&raw(params)));
        assert_eq!(of("elicitation/create", r#"{"mode":"url"}"#), Some(Question::ElicitationUrl));
        assert_eq!(of("elicitation/create", r#"{"mode":"form"}"#), Some(Question::ElicitationForm));
        assert_eq!(of("elicitation/create", "{}"), Some(Question::ElicitationForm));
        assert_eq!(of("sampling/createMessage", r#"{"tools":[]}"#), Some(Question::SamplingTools));
        let context = r#"{"includeContext":"thisServer"}"#;
        assert_eq!(of("sampling/createMessage", context), Some(Question::Sampling));
        assert_eq!(Question::of("roots/list", None), Some(Question::Roots));
        assert_eq!(of("ping", "{}"), None);
    }
}
