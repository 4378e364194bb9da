//! An image just built, held against Lambda's rules before anybody else has it.
//!
//! A build applies the rules that need manifest and config alone. The others want the image's layers here, and are
//! applied where a check asks for it.

use std::collections::BTreeSet;

use crate::build::{Error, checking};
use crate::lambda::check::{self, Finding, Level};
use crate::oci::image::Image;
use crate::plan::Plan;

/// What the cheap rules find that stops nothing, each with whether it is a warning.
///
/// # Errors
/// [`Error::Refused`] where Lambda would refuse the image.
pub(super) fn approve(image: &Image, plan: &Plan) -> Result<Vec<(bool, String)>, Error> {
    let wanted = Some(plan.architecture.oci());
    let documents = checking::of_image(image, &plan.today, wanted);
    let (errors, others) = judged(check::check_documents(&documents), &plan.ignored);
    if !errors.is_empty() {
        return Err(Error::Refused(errors));
    }
    let told = others.into_iter().map(|finding| {
        let Finding { message, rule, .. } = &finding;
        let text = format!("{message} ({}): {}", rule.id, finding.remedy);
        (finding.level == Level::Warning, text)
    });
    Ok(told.collect())
}

/// The errors, and the rest, without what is ignored.
fn judged(
    findings: Vec<Finding>,
    ignored: &BTreeSet<&'static str>,
) -> (Vec<Finding>, Vec<Finding>) {
    let findings = findings.into_iter();
    let counted = findings.filter(|finding| !ignored.contains(finding.rule.id));
    counted.partition(|finding| finding.level == Level::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_refused_unless_they_are_ignored() {
        let rule = check::rules().next().unwrap();
        let finding = |level| Finding {
            rule,
            level,
            message: "it is so".to_owned(),
            layer: None,
            path: None,
            value: None,
            remedy: "Change it.".to_owned(),
        };
        let all = || {
            [Level::Error, Level::Warning, Level::Note]
                .map(finding)
                .to_vec()
        };
        let (errors, others) = judged(all(), &BTreeSet::new());
        assert_eq!((errors.len(), others.len()), (1, 2));
        insta::assert_snapshot!(Error::Refused(errors), @"Lambda would refuse this image: it is so (LMB001)");
        let (errors, others) = judged(all(), &[rule.id].into());
        assert_eq!((errors.len(), others.len()), (0, 0));
    }
}
