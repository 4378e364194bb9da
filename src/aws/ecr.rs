//! Which hosts are registries of ECR, whose they are, and where their API answers.
//!
//! Pure: hosts as Amazon's own credential helper knows them, endpoints as botocore's rules have them. It must
//! never know who asks, or with which credentials.

use serde_json::Value;

use super::service::{Api, Call, Form, Service};

/// The suffixes of hosts that have dual-stack endpoints only under another name: IPv4 hosts' suffix, that of
/// the dual-stack registry (empty where none is known), and that of the dual-stack API.
const PARTITIONS: [(&str, &str, &str); 7] = [
    ("amazonaws.com", "on.aws", "api.aws"),
    (
        "amazonaws.com.cn",
        "on.amazonwebservices.com.cn",
        "api.amazonwebservices.com.cn",
    ),
    ("amazonaws.eu", "", "api.amazonwebservices.eu"),
    ("c2s.ic.gov", "", "api.aws.ic.gov"),
    ("sc2s.sgov.gov", "", "api.aws.scloud"),
    ("cloud.adc-e.uk", "", "api.cloud-aws.adc-e.uk"),
    ("csp.hci.ic.gov", "", "api.aws.hci.ic.gov"),
];

/// The only region where the public ECR has its API.
const PUBLIC_REGION: &str = "us-east-1";

/// Private registries, one for each account and region.
pub static PRIVATE: Service = Service {
    id: "ECR",
    signing_name: "ecr",
    policy: "ecr",
};

/// The public gallery.
pub static PUBLIC: Service = Service {
    id: "ECR PUBLIC",
    signing_name: "ecr-public",
    policy: "ecr-public",
};

/// A registry of ECR.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registry {
    host: String,
    /// None for the public one.
    account: Option<String>,
    region: String,
    endpoint: String,
}

impl Registry {
    /// The registry at `host`, if that is one of ECR's.
    pub fn parse(host: &str) -> Option<Self> {
        let host = host.to_ascii_lowercase();
        let public = match host.as_str() {
            "public.ecr.aws" => Some("https://api.ecr-public.us-east-1.amazonaws.com"),
            "ecr-public.aws.com" => Some("https://ecr-public.us-east-1.api.aws"),
            _ => None,
        };
        if let Some(endpoint) = public {
            return Some(Self {
                account: None,
                region: PUBLIC_REGION.to_owned(),
                endpoint: endpoint.to_owned(),
                host,
            });
        }
        let (account, rest) = host.split_once('.')?;
        let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        let (separator, rest) = match rest.strip_prefix("dkr")? {
            rest if rest.starts_with(".ecr") => ('.', &rest[4..]),
            rest if rest.starts_with("-ecr") => ('-', &rest[4..]),
            _ => return None,
        };
        let (fips, rest) = match rest.strip_prefix("-fips") {
            Some(rest) => ("-fips", rest),
            None => ("", rest),
        };
        let (region, suffix) = rest.strip_prefix('.')?.split_once('.')?;
        let endpoint = endpoint(separator == '-', fips, region, suffix)?;
        (is_account && is_region(region)).then(|| Self {
            account: Some(account.to_owned()),
            region: region.to_owned(),
            endpoint,
            host: host.clone(),
        })
    }

    /// The host, in small letters.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The account whose registry it is; none for the public one.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// The region that its API is called in.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Whether it is the public gallery.
    pub fn is_public(&self) -> bool {
        self.account.is_none()
    }

    /// Which service it belongs to.
    pub fn service(&self) -> &'static Service {
        if self.is_public() { &PUBLIC } else { &PRIVATE }
    }

    /// The address of its API, unless the user names another.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its API.
    pub(super) fn api(&self) -> Api<'_> {
        Api {
            service: self.service(),
            region: &self.region,
            endpoint: &self.endpoint,
            of: &self.host,
        }
    }

    /// A call of its API.
    pub(super) fn call<'a>(&'a self, action: &'a str, body: &'a Value) -> Call<'a> {
        let target = if self.is_public() {
            "SpencerFrontendService"
        } else {
            "AmazonEC2ContainerRegistry_V20150921"
        };
        Call {
            api: self.api(),
            action,
            form: Form::Json(target, body),
        }
    }

    /// The name that the API has for a repository: in the public gallery an alias stands before it, which the
    /// credentials stand for.
    pub fn name_of<'name>(&self, repository: &'name str) -> &'name str {
        match repository.split_once('/') {
            Some((_, name)) if self.is_public() => name,
            _ => repository,
        }
    }
}

/// The suffix of dual-stack APIs, where that of IPv4 hosts is this one.
pub(super) fn dual_stack(ipv4: &str) -> Option<&'static str> {
    let mut known = PARTITIONS.iter();
    let (_, _, api) = known.find(|(known, ..)| *known == ipv4)?;
    Some(api)
}

fn endpoint(dual_stack: bool, fips: &str, region: &str, suffix: &str) -> Option<String> {
    // Where no name is known for dual-stack registries, none is one.
    let is = |known: &str| !known.is_empty() && suffix == known;
    PARTITIONS.iter().find_map(|(ipv4, registry, api)| {
        if dual_stack && is(registry) {
            Some(format!("https://ecr{fips}.{region}.{api}"))
        } else if !dual_stack && is(ipv4) {
            Some(format!("https://api.ecr{fips}.{region}.{ipv4}"))
        } else {
            None
        }
    })
}

/// It becomes part of a host's name, so nothing else may be in it.
pub(super) fn is_region(region: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric();
    region.bytes().next().is_some_and(word) && region.bytes().all(|b| word(b) || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A region of each partition, its host's suffix, and the endpoint that botocore 1.44.5 gives for it: plain
    /// and with FIPS.
    const IPV4: [(&str, &str, &str, &str); 9] = [
        (
            "eu-west-1",
            "amazonaws.com",
            "https://api.ecr.eu-west-1.amazonaws.com",
            "https://api.ecr-fips.eu-west-1.amazonaws.com",
        ),
        (
            "mx-central-1",
            "amazonaws.com",
            "https://api.ecr.mx-central-1.amazonaws.com",
            "https://api.ecr-fips.mx-central-1.amazonaws.com",
        ),
        (
            "us-gov-west-1",
            "amazonaws.com",
            "https://api.ecr.us-gov-west-1.amazonaws.com",
            "https://api.ecr-fips.us-gov-west-1.amazonaws.com",
        ),
        (
            "cn-north-1",
            "amazonaws.com.cn",
            "https://api.ecr.cn-north-1.amazonaws.com.cn",
            "https://api.ecr-fips.cn-north-1.amazonaws.com.cn",
        ),
        (
            "eusc-de-east-1",
            "amazonaws.eu",
            "https://api.ecr.eusc-de-east-1.amazonaws.eu",
            "https://api.ecr-fips.eusc-de-east-1.amazonaws.eu",
        ),
        (
            "us-iso-east-1",
            "c2s.ic.gov",
            "https://api.ecr.us-iso-east-1.c2s.ic.gov",
            "https://api.ecr-fips.us-iso-east-1.c2s.ic.gov",
        ),
        (
            "us-isob-east-1",
            "sc2s.sgov.gov",
            "https://api.ecr.us-isob-east-1.sc2s.sgov.gov",
            "https://api.ecr-fips.us-isob-east-1.sc2s.sgov.gov",
        ),
        (
            "eu-isoe-west-1",
            "cloud.adc-e.uk",
            "https://api.ecr.eu-isoe-west-1.cloud.adc-e.uk",
            "https://api.ecr-fips.eu-isoe-west-1.cloud.adc-e.uk",
        ),
        (
            "us-isof-south-1",
            "csp.hci.ic.gov",
            "https://api.ecr.us-isof-south-1.csp.hci.ic.gov",
            "https://api.ecr-fips.us-isof-south-1.csp.hci.ic.gov",
        ),
    ];

    fn endpoint_of(host: &str) -> String {
        let registry = Registry::parse(host).unwrap_or_else(|| panic!("{host} is of ECR"));
        registry.endpoint().to_owned()
    }

    #[test]
    fn every_partition_has_its_endpoints() {
        for (region, suffix, plain, fips) in IPV4 {
            let host = format!("123456789012.dkr.ecr.{region}.{suffix}");
            let registry = Registry::parse(&host).unwrap();
            assert_eq!(registry.account(), Some("123456789012"));
            assert_eq!(registry.region(), region);
            assert!(!registry.is_public() && registry.host() == host);
            assert_eq!(registry.endpoint(), plain);
            let host = format!("123456789012.dkr.ecr-fips.{region}.{suffix}");
            assert_eq!(endpoint_of(&host), fips);
        }
    }

    #[test]
    fn dual_stack_hosts_have_dual_stack_endpoints() {
        for (host, endpoint) in [
            ("dkr-ecr.eu-west-1.on.aws", "https://ecr.eu-west-1.api.aws"),
            (
                "dkr-ecr-fips.us-east-1.on.aws",
                "https://ecr-fips.us-east-1.api.aws",
            ),
            (
                "dkr-ecr-fips.us-gov-west-1.on.aws",
                "https://ecr-fips.us-gov-west-1.api.aws",
            ),
            (
                "dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
                "https://ecr.cn-north-1.api.amazonwebservices.com.cn",
            ),
        ] {
            assert_eq!(endpoint_of(&format!("123456789012.{host}")), endpoint);
        }
    }

    #[test]
    fn the_public_gallery_has_one_region() {
        for (host, endpoint) in [
            (
                "public.ecr.aws",
                "https://api.ecr-public.us-east-1.amazonaws.com",
            ),
            ("ecr-public.aws.com", "https://ecr-public.us-east-1.api.aws"),
        ] {
            let registry = Registry::parse(host).unwrap();
            assert!(registry.is_public() && registry.account().is_none());
            assert_eq!(
                (registry.region(), registry.endpoint()),
                ("us-east-1", endpoint)
            );
            assert_eq!(registry.service(), &PUBLIC);
            assert_eq!(registry.name_of("alias/team/app"), "team/app");
        }
        let private = Registry::parse("123456789012.dkr.ecr.eu-west-1.amazonaws.com").unwrap();
        assert_eq!(private.name_of("team/app"), "team/app");
    }

    #[test]
    fn what_only_looks_like_ecr_is_not() {
        for host in [
            "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
            "1234567890123.dkr.ecr.eu-west-1.amazonaws.com",
            "12345678901a.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
            "123456789012.dkr.ecr.eu-west-1.evil.example",
            "123456789012.dkr.ecr..amazonaws.com",
            "123456789012.dkr.ecr.a@evil.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.on.aws",
            "123456789012.dkr-ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr-ecr.eu-west-1.",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com:443",
            "public.ecr.aws.evil.example",
            "evil.public.ecr.aws",
            "docker.io",
            "",
        ] {
            assert_eq!(Registry::parse(host), None, "{host}");
        }
    }

    proptest! {
        /// Whatever host is taken for ECR's, its API is a host of Amazon's in the same region.
        #[test]
        fn endpoints_are_amazons(
            account in "[0-9]{11,13}", dkr in "dkr[.-]ecr(-fips)?", region in "[a-z0-9@/:.-]{0,12}",
            suffix in prop::sample::select(vec!["amazonaws.com", "on.aws", "amazonaws.eu", "aws", "evil.test"]),
        ) {
            if let Some(registry) = Registry::parse(&format!("{account}.{dkr}.{region}.{suffix}")) {
                let end = [".amazonaws.com", ".api.aws", ".amazonaws.eu"];
                let url: crate::http::Url = registry.endpoint().parse().unwrap();
                let host = url.host_str().unwrap();
                prop_assert!(end.iter().any(|end| host.ends_with(end)), "{}", host);
                prop_assert!(url.path() == "/" && url.username().is_empty() && url.port().is_none());
                let part = format!(".{}.", registry.region());
                prop_assert!(host.contains(&part), "{}", host);
            }
        }
    }
}
