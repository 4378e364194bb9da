//! The variables of a runtime and of an extension: the image's, the function's, and the platform's over them.
//!
//! Nothing of this machine's own environment is known here.

use std::collections::BTreeMap;

use crate::lambda::RUNTIME_DIR;
use crate::lambda::RUNTIME_DIR_VARIABLE;
use crate::lambda::TASK_ROOT;
use crate::lambda::function::Function;
use crate::lambda::function::LogFormat;

/// What the platform says to a runtime alone: an extension never sees it, whoever set it.
const RUNTIME_ALONE: [&str; 7] = [
    "_HANDLER",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "LAMBDA_TASK_ROOT",
    RUNTIME_DIR_VARIABLE,
    "AWS_XRAY_CONTEXT_MISSING",
];

/// The variables of a function in one environment.
pub(super) struct Variables<'a> {
    /// The function.
    pub function: &'a Function,
    /// Where the APIs are, as `host:port`.
    pub api: &'a str,
    /// The name of the environment's own stream of logs.
    pub log_stream: &'a str,
}

impl Variables<'_> {
    /// Those of the runtime.
    pub(super) fn runtime(&self) -> Vec<(String, String)> {
        let mut all = self.given();
        all.extend(self.platform());
        let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
        set("LAMBDA_TASK_ROOT", format!("/{TASK_ROOT}"));
        set(RUNTIME_DIR_VARIABLE, format!("/{RUNTIME_DIR}"));
        set(
            "AWS_LAMBDA_LOG_GROUP_NAME",
            format!("/aws/lambda/{}", self.function.name),
        );
        set("AWS_LAMBDA_LOG_STREAM_NAME", self.log_stream.to_owned());
        set("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR".to_owned());
        if let Some(handler) = &self.function.handler {
            set("_HANDLER", handler.clone());
        }
        all.into_iter().collect()
    }

    /// Those of an extension.
    pub(super) fn extension(&self) -> Vec<(String, String)> {
        let mut all = self.given();
        all.retain(|name, _| !name.starts_with('_') && !RUNTIME_ALONE.contains(&name.as_str()));
        all.extend(self.platform());
        all.into_iter().collect()
    }

    fn given(&self) -> BTreeMap<String, String> {
        let mut all = self.function.image_variables.clone();
        all.extend(self.function.variables.clone());
        // Its name belongs to the descriptor that the sandbox makes.
        all.remove("_LAMBDA_TELEMETRY_LOG_FD");
        all
    }

    fn platform(&self) -> Vec<(String, String)> {
        let function = self.function;
        let mut all = vec![
            ("AWS_LAMBDA_FUNCTION_NAME", function.name.clone()),
            ("AWS_LAMBDA_FUNCTION_VERSION", super::VERSION.to_owned()),
            (
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
                function.memory.to_string(),
            ),
            ("AWS_LAMBDA_RUNTIME_API", self.api.to_owned()),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
            ("AWS_REGION", function.region.clone()),
            ("AWS_DEFAULT_REGION", function.region.clone()),
        ];
        // The only one of these that a function's configuration may set.
        if !function.variables.contains_key("TZ") {
            all.push(("TZ", ":UTC".to_owned()));
        }
        if function.log_format == LogFormat::Json {
            all.push(("AWS_LAMBDA_LOG_FORMAT", "JSON".to_owned()));
            let asked = function.variables.get("AWS_LAMBDA_LOG_LEVEL").cloned();
            all.push((
                "AWS_LAMBDA_LOG_LEVEL",
                asked.unwrap_or_else(|| "INFO".to_owned()),
            ));
        }
        all.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::environment::testing;

    fn map(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
        pairs.into_iter().collect()
    }

    #[test]
    fn the_platform_wins_over_the_function_and_that_over_the_image() {
        let mut function = testing::function();
        let image = [
            ("A", "image"),
            ("B", "image"),
            ("AWS_LAMBDA_RUNTIME_API", "image"),
            ("_PRIVATE", "image"),
            ("LAMBDA_TASK_ROOT", "/image"),
            ("AWS_EXECUTION_ENV", "image"),
            ("TZ", "image"),
        ];
        for (name, value) in image {
            function
                .image_variables
                .insert(name.to_owned(), value.to_owned());
        }
        for name in ["B", "AWS_REGION", "AWS_ACCESS_KEY_ID"] {
            function
                .variables
                .insert(name.to_owned(), "function".to_owned());
        }
        let variables = Variables {
            function: &function,
            api: "127.0.0.1:9001",
            log_stream: "stream",
        };
        let runtime = map(variables.runtime());
        for (name, value) in [
            ("A", "image"),
            ("B", "function"),
            ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", "function"),
            ("LAMBDA_TASK_ROOT", "/var/task"),
            ("_HANDLER", "app.handler"),
            ("_PRIVATE", "image"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/hello"),
            ("TZ", ":UTC"),
        ] {
            assert_eq!(runtime[name], value, "{name}");
        }
        assert!(!runtime.contains_key("AWS_LAMBDA_LOG_FORMAT"));
        let extension = map(variables.extension());
        for name in RUNTIME_ALONE {
            assert!(!extension.contains_key(name), "{name}");
        }
        assert!(!extension.contains_key("_PRIVATE"));
        assert_eq!(extension["AWS_ACCESS_KEY_ID"], "function");
        assert_eq!(extension["AWS_LAMBDA_FUNCTION_NAME"], "hello");
        function.log_format = LogFormat::Json;
        let zone = ("TZ".to_owned(), "Europe/Berlin".to_owned());
        function.variables.extend([zone]);
        let variables = Variables {
            function: &function,
            api: "127.0.0.1:9001",
            log_stream: "stream",
        };
        let runtime = map(variables.runtime());
        assert_eq!(runtime["AWS_LAMBDA_LOG_LEVEL"], "INFO");
        assert_eq!(runtime["TZ"], "Europe/Berlin");
    }
}
