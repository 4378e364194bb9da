//! The words of a registry that refuses, and what they mean where its status does not say it.

use serde::Deserialize;

use crate::http::StatusCode;

/// The words of an error answer.
pub(super) struct Told {
    pub(super) detail: String,
    pub(super) codes: Vec<String>,
}

impl Told {
    pub(super) fn has(&self, code: &str) -> bool {
        self.codes.iter().any(|known| known == code)
    }

    fn says(&self, text: &str) -> bool {
        self.detail.to_lowercase().contains(text)
    }

    pub(super) fn is_missing_repository(&self) -> bool {
        self.has("NAME_UNKNOWN")
            || self.says("repositorynotfoundexception")
            || self.says("does not exist in the registry with id")
    }

    /// In ECR's words, which it has for no want of rights.
    pub(super) fn is_expired_login(&self) -> bool {
        self.says("authorization token has expired")
    }

    /// In ECR's words, Harbor's, the Artifact Registry's and those of others.
    pub(super) fn is_immutable_tag(&self) -> bool {
        self.has("TAG_INVALID")
            || self.says("immutab")
            || self.says("cannot be overwritten")
            || self.says("imagetagalreadyexistsexception")
    }
}

/// The registry's own words for an error, else the status.
pub(super) fn read_told(body: &[u8], status: StatusCode) -> Told {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let told = serde_json::from_slice::<Body>(body).ok();
    let items: Vec<_> = told.into_iter().flat_map(|body| body.errors).collect();
    let text = |item: &Item| match (&*item.code, &*item.message) {
        (code, "") => code.to_owned(),
        ("", message) => message.to_owned(),
        (code, message) => format!("{message} ({code})"),
    };
    let texts: Vec<_> = items.iter().map(text).collect();
    Told {
        detail: if texts.is_empty() {
            status.to_string()
        } else {
            texts.join("; ")
        },
        codes: items.into_iter().map(|item| item.code).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_passed_on() {
        let told = |body: &str| read_told(body.as_bytes(), StatusCode::BAD_REQUEST);
        let taken = told(r#"{"errors":[{"code":"TAG_INVALID","message":"tag is immutable"}]}"#);
        assert_eq!(taken.detail, "tag is immutable (TAG_INVALID)");
        assert!(taken.is_immutable_tag() && !taken.is_missing_repository());
        assert_eq!(told("<html>").detail, "400 Bad Request");
        let denied = told(r#"{"errors":[{"code":"DENIED"}]}"#);
        assert_eq!(denied.detail, "DENIED");
        assert!(!denied.is_immutable_tag() && !denied.is_missing_repository());
        let words = [
            r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'a' does not exist"}]}"#,
            r#"{"errors":[{"message":"RepositoryNotFoundException: no"}]}"#,
        ];
        assert!(words.iter().all(|body| told(body).is_missing_repository()));
        let words = "Failed to process request due to 'x:1' configured as immutable.";
        assert!(
            told(&format!(
                r#"{{"errors":[{{"code":"PRECONDITION","message":"{words}"}}]}}"#
            ))
            .is_immutable_tag()
        );
    }
}
