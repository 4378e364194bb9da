//! Layers of Lambda's: which ARNs name a version of one, and what AWS says of it.
//!
//! Follows `GetLayerVersionByArn` of Lambda's API. The ARN's own partition and region say where that answers. What a
//! layer is good for, and what is in it, is not known.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::ecr::{self, is_region};
use super::service::{Api, Call, Form, Service, Variant};
use super::{Aws, Error};
use crate::digest::Digest;
use crate::http::{self, Url};

/// Lambda itself.
pub static LAMBDA: Service = Service {
    id: "Lambda",
    signing_name: "lambda",
    policy: "lambda",
};

/// Partitions, and the suffixes of their hosts.
const PARTITIONS: [(&str, &str); 8] = [
    ("aws", "amazonaws.com"),
    ("aws-cn", "amazonaws.com.cn"),
    ("aws-us-gov", "amazonaws.com"),
    ("aws-eusc", "amazonaws.eu"),
    ("aws-iso", "c2s.ic.gov"),
    ("aws-iso-b", "sc2s.sgov.gov"),
    ("aws-iso-e", "cloud.adc-e.uk"),
    ("aws-iso-f", "csp.hci.ic.gov"),
];

/// Why a text names no version of a layer, as a phrase that follows it and `is`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoLayer(pub &'static str);

/// The ARN of one version of a layer: `arn:PARTITION:lambda:REGION:ACCOUNT:layer:NAME:VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerArn {
    text: String,
    region: String,
    /// Of its partition's hosts.
    suffix: &'static str,
    name: String,
    version: String,
}

impl FromStr for LayerArn {
    type Err = NoLayer;

    fn from_str(text: &str) -> Result<Self, NoLayer> {
        let other = NoLayer(
            "no ARN of a layer's version, which is `arn:PARTITION:lambda:REGION:ACCOUNT:layer:NAME:VERSION`",
        );
        let parts: Vec<&str> = text.split(':').collect();
        let (partition, region, account, name, version) = match parts[..] {
            [
                "arn",
                partition,
                "lambda",
                region,
                account,
                "layer",
                name,
                version,
            ] => (partition, region, account, name, Some(version)),
            ["arn", partition, "lambda", region, account, "layer", name] => {
                (partition, region, account, name, None)
            }
            _ => return Err(other),
        };
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if !is_region(region)
            || account.len() != 12
            || !is_number(account)
            || name.is_empty()
            || !name.bytes().all(is_word)
        {
            return Err(other);
        }
        let mut known = PARTITIONS.iter();
        let suffix = known.find(|(name, _)| *name == partition);
        let (_, suffix) = suffix.ok_or(NoLayer("of no partition of AWS that is known"))?;
        let version = version.ok_or(NoLayer(
            "a layer's ARN without the version, and each version has other files",
        ))?;
        if version.is_empty() || !is_number(version) || version.starts_with('0') {
            return Err(other);
        }
        Ok(Self {
            text: text.to_owned(),
            suffix,
            region: region.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
        })
    }
}

impl fmt::Display for LayerArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl LayerArn {
    /// The layer's name and version, as `NAME:VERSION`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }

    /// A name for the layer's archive.
    pub fn filename(&self) -> String {
        format!("{}-{}.zip", self.name, self.version)
    }

    /// Where Lambda's API of its region answers.
    fn endpoint(&self, variant: Variant) -> String {
        let fips = if variant.fips { "-fips" } else { "" };
        let suffix = ecr::dual_stack(self.suffix).filter(|_| variant.dual_stack);
        let suffix = suffix.unwrap_or(self.suffix);
        format!("https://lambda{fips}.{}.{suffix}", self.region)
    }
}

/// What AWS says of a version of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerVersion {
    /// Where its archive can be had for some minutes, by whoever knows the address: it is a secret.
    pub location: http::Secret,
    /// Of the archive.
    pub digest: Digest,
    /// The archive's length in bytes.
    pub size: u64,
    /// Architectures that it is for; none where it does not say.
    pub architectures: Vec<String>,
    /// Runtimes that it is for, as `python3.12`; none where it does not say.
    pub runtimes: Vec<String>,
}

impl LayerVersion {
    fn of_answer(answer: &Value, arn: &LayerArn) -> Result<(Self, Url), &'static str> {
        if answer["LayerVersionArn"].as_str() != Some(&arn.text) {
            return Err("the answer is of another layer");
        }
        let content = &answer["Content"];
        let digest = content["CodeSha256"].as_str();
        let digest = digest.and_then(|text| BASE64.decode(text).ok());
        let digest = digest.and_then(|bytes| {
            let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
            Digest::from_hex(&hex.collect::<String>()).ok()
        });
        let digest = digest.ok_or("the answer has no hash of the archive")?;
        let size = content["CodeSize"].as_u64();
        let size = size.ok_or("the answer has no size of the archive")?;
        let location = content["Location"].as_str();
        let url = location.and_then(|text| Url::parse(text).ok());
        let url = url.ok_or("the answer has no address of the archive")?;
        let texts = |key: &str| {
            let list = answer[key].as_array().into_iter().flatten();
            let texts = list.filter_map(Value::as_str).map(str::to_owned);
            texts.collect()
        };
        let version = Self {
            location: http::Secret::new(url.as_str()),
            digest,
            size,
            architectures: texts("CompatibleArchitectures"),
            runtimes: texts("CompatibleRuntimes"),
        };
        Ok((version, url))
    }
}

impl Aws {
    /// What AWS says of a version of a layer, which the caller must be allowed to read.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn layer_version(&self, arn: &LayerArn) -> Result<LayerVersion, Error> {
        let client = &self.0.settings.client;
        let endpoint = arn.endpoint(Box::pin(self.0.sdk.variant(&arn.region)).await);
        if client.is_offline() {
            // Nobody is to look for credentials first.
            return Err(http::Error::Offline { url: endpoint }.into());
        }
        let call = Call {
            api: Api {
                service: &LAMBDA,
                region: &arn.region,
                endpoint: &endpoint,
                of: &arn.text,
            },
            action: "GetLayerVersion",
            form: Form::Get(
                &["2018-10-31", "layers"],
                &[("find", "LayerVersion"), ("Arn", &arn.text)],
            ),
        };
        let answer = self.call(&call).await?;
        let read = LayerVersion::of_answer(&answer, arn).and_then(|(version, url)| {
            let is_plain = client.is_plain(&http::host_and_port(&url));
            match url.scheme() {
                "https" => Ok(version),
                "http" if is_plain => Ok(version),
                _ => Err("the archive's address is not reached over TLS"),
            }
        });
        read.map_err(|message| Error::Answer {
            action: call.name(),
            status: 200,
            code: "no layer".to_owned(),
            message: message.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const ARN: &str = "arn:aws:lambda:eu-west-1:123456789012:layer:power_tools-V3:17";

    #[test]
    fn an_arn_says_where_it_is_asked_for() {
        // The suffixes are those of botocore 1.44.5, without and with dual stack.
        for (partition, region, ipv4, dual_stack) in [
            ("aws", "eu-west-1", "amazonaws.com", "api.aws"),
            (
                "aws-cn",
                "cn-north-1",
                "amazonaws.com.cn",
                "api.amazonwebservices.com.cn",
            ),
            ("aws-us-gov", "us-gov-west-1", "amazonaws.com", "api.aws"),
            (
                "aws-eusc",
                "eusc-de-east-1",
                "amazonaws.eu",
                "api.amazonwebservices.eu",
            ),
            ("aws-iso", "us-iso-east-1", "c2s.ic.gov", "api.aws.ic.gov"),
            (
                "aws-iso-b",
                "us-isob-east-1",
                "sc2s.sgov.gov",
                "api.aws.scloud",
            ),
            (
                "aws-iso-e",
                "eu-isoe-west-1",
                "cloud.adc-e.uk",
                "api.cloud-aws.adc-e.uk",
            ),
            (
                "aws-iso-f",
                "us-isof-south-1",
                "csp.hci.ic.gov",
                "api.aws.hci.ic.gov",
            ),
        ] {
            let text = format!("arn:{partition}:lambda:{region}:123456789012:layer:x:1");
            let arn: LayerArn = text.parse().unwrap();
            for (fips, host) in [(false, "lambda"), (true, "lambda-fips")] {
                for (dual_stack, suffix) in [(false, ipv4), (true, dual_stack)] {
                    assert_eq!(
                        arn.endpoint(Variant { fips, dual_stack }),
                        format!("https://{host}.{region}.{suffix}")
                    );
                }
            }
        }
        let arn: LayerArn = ARN.parse().unwrap();
        assert_eq!(
            (&*arn.to_string(), &*arn.name(), &*arn.filename()),
            (ARN, "power_tools-V3:17", "power_tools-V3-17.zip")
        );
    }

    #[test]
    fn what_is_no_layers_version_is_told() {
        let why = |text: &str| text.parse::<LayerArn>().unwrap_err().to_string();
        let other = "no ARN of a layer's version, which is `arn:PARTITION:lambda:REGION:ACCOUNT:layer:NAME:VERSION`";
        for text in [
            "",
            "power_tools",
            "arn:aws:lambda:eu-west-1:123456789012:function:x:1",
            "arn:aws:s3:eu-west-1:123456789012:layer:x:1",
            "arn:aws:lambda::123456789012:layer:x:1",
            "arn:aws:lambda:evil.test/:123456789012:layer:x:1",
            "arn:aws:lambda:eu-west-1:12345678901:layer:x:1",
            "arn:aws:lambda:eu-west-1:12345678901a:layer:x:1",
            "arn:aws:lambda:eu-west-1:123456789012:layer::1",
            "arn:aws:lambda:eu-west-1:123456789012:layer:a/b:1",
            "arn:aws:lambda:eu-west-1:123456789012:layer:x:",
            "arn:aws:lambda:eu-west-1:123456789012:layer:x:0",
            "arn:aws:lambda:eu-west-1:123456789012:layer:x:01",
            "arn:aws:lambda:eu-west-1:123456789012:layer:x:$LATEST",
            "arn:aws:lambda:eu-west-1:123456789012:layer:x:1:2",
            "arn:aws:lambda:eu-west-1:123456789012:layer:x:1 ",
        ] {
            assert_eq!(why(text), other, "{text}");
        }
        insta::assert_snapshot!(why("arn:aws:lambda:eu-west-1:123456789012:layer:x"), @"a layer's ARN without the version, and each version has other files");
        insta::assert_snapshot!(why("arn:gcp:lambda:eu-west-1:123456789012:layer:x:1"), @"of no partition of AWS that is known");
    }

    #[test]
    fn answers_are_read_or_said_to_be_none() {
        let arn: LayerArn = ARN.parse().unwrap();
        let digest = Digest::of("zip");
        let whole = json!({
            "LayerVersionArn": ARN, "CompatibleRuntimes": ["python3.12"], "CompatibleArchitectures": ["arm64"],
            "Content": {
                "CodeSha256": BASE64.encode(digest.as_bytes()), "CodeSize": 3,
                "Location": "https://bucket.test/layer?X-Amz-Signature=s3cr3t",
            },
        });
        let (version, _) = LayerVersion::of_answer(&whole, &arn).unwrap();
        assert!(!format!("{version:?}").contains("s3cr3t"));
        assert_eq!((version.digest, version.size), (digest, 3));
        assert_eq!(
            (version.runtimes, version.architectures),
            (vec!["python3.12".to_owned()], vec!["arm64".to_owned()])
        );
        let without = |path: &str, value: Value| {
            let mut broken = whole.clone();
            *broken.pointer_mut(path).unwrap() = value;
            LayerVersion::of_answer(&broken, &arn).unwrap_err()
        };
        assert_eq!(
            without("/LayerVersionArn", json!("x")),
            "the answer is of another layer"
        );
        let no_hash = "the answer has no hash of the archive";
        for hash in [json!("c2hvcnQ="), json!("?"), Value::Null] {
            assert_eq!(without("/Content/CodeSha256", hash), no_hash);
        }
        assert_eq!(
            without("/Content/CodeSize", json!(-1)),
            "the answer has no size of the archive"
        );
        assert_eq!(
            without("/Content/Location", json!("/etc")),
            "the answer has no address of the archive"
        );
    }

    proptest! {
        /// Whatever ARN is taken, it is asked for at a host of Amazon's in its region.
        #[test]
        fn endpoints_are_amazons(
            partition in "aws(-cn|-us-gov|-eusc)?|[a-z]{3}", region in "[a-z0-9@/:.#-]{0,12}", name in "[a-zA-Z_/-]{0,4}",
            version in "[0-9a]{0,3}", fips: bool,
        ) {
            let text = format!("arn:{partition}:lambda:{region}:123456789012:layer:{name}:{version}");
            if let Ok(arn) = text.parse::<LayerArn>() {
                let variant = Variant { fips, dual_stack: false };
                let url: Url = arn.endpoint(variant).parse().unwrap();
                let host = url.host_str().unwrap();
                let rest = host.strip_prefix(if fips { "lambda-fips." } else { "lambda." }).unwrap();
                prop_assert!(rest.starts_with(&format!("{region}.amazonaws.")), "{}", host);
                prop_assert!(url.path() == "/" && url.username().is_empty() && url.port().is_none());
            }
        }
    }
}
