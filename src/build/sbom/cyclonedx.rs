//! The document as `CycloneDX` 1.6 has it, in JSON.
//!
//! What is in an image is found out elsewhere.

use serde_json::{Value, json};

use crate::build::sbom::licence::{Licence, Term};
use crate::build::sbom::{Component, Materials, Named, TOOL, TOOL_VERSION, number};

/// The image and its base, by names that no path of a distribution has.
const IMAGE: &str = "image";
const BASE: &str = "base";

pub(super) fn document(materials: &Materials) -> Value {
    let mut metadata = json!({
        "tools": {"components": [{"type": "application", "name": TOOL, "version": TOOL_VERSION}]},
        "component": container(&materials.image, IMAGE),
    });
    if let Some(created) = &materials.image.created {
        metadata["timestamp"] = json!(created);
    }
    let base = materials.base.as_ref().map(|base| {
        let mut component = container(base, BASE);
        let mut properties = vec![property("lambimg:base", "true")];
        properties.extend(
            base.created
                .as_deref()
                .map(|it| property("lambimg:created", it)),
        );
        component["properties"] = json!(properties);
        component
    });
    let packages = materials.packages.iter().map(library);
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": base.into_iter().chain(packages).collect::<Vec<_>>(),
        "dependencies": dependencies(materials),
    });
    document["serialNumber"] = json!(number(&document).urn().to_string());
    document
}

fn property(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn sha256(hex: &str) -> Value {
    json!([{"alg": "SHA-256", "content": hex}])
}

fn container(image: &Named, reference: &str) -> Value {
    let mut component = json!({"type": "container", "bom-ref": reference, "name": image.name});
    if let Some(digest) = &image.digest {
        component["version"] = json!(digest);
        component["hashes"] = sha256(digest.trim_start_matches("sha256:"));
    }
    if let Some(purl) = &image.purl {
        component["purl"] = json!(purl);
    }
    component
}

fn library(package: &Component) -> Value {
    let mut properties = vec![
        property("lambimg:layer", &package.layer.to_string()),
        property("lambimg:path", package.info),
    ];
    if package.is_base {
        properties.insert(0, property("lambimg:base", "true"));
    }
    let mut component = json!({
        "type": "library",
        "bom-ref": package.info,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        // What the base brings is there whether the function uses it or not.
        "scope": if package.is_base { "optional" } else { "required" },
        "properties": properties,
    });
    if let Some(summary) = package.summary {
        component["description"] = json!(summary);
    }
    if let Some(author) = &package.author {
        let mut contact = json!({"name": author.name});
        if let Some(email) = &author.email {
            contact["email"] = json!(email);
        }
        component["authors"] = json!([contact]);
    }
    if let Some(supplier) = &package.supplier {
        component["supplier"] = json!({"name": supplier.name});
    }
    let licences = licences(&package.licence);
    if !licences.is_empty() {
        component["licenses"] = json!(licences);
    }
    if let Some(wheel) = package.wheel {
        let hashes = sha256(&wheel.sha256.hex());
        component["hashes"] = hashes.clone();
        if let Some(url) = &wheel.url {
            component["externalReferences"] = json!([{"type": "distribution", "url": url, "comment": wheel.file, "hashes": hashes}]);
        }
    }
    component
}

fn licences(licence: &Licence) -> Vec<Value> {
    let declared = "declared";
    match licence {
        Licence::Expression { id: Some(id), .. } => {
            vec![json!({"license": {"id": id, "acknowledgement": declared}})]
        }
        Licence::Expression { text, .. } => {
            vec![json!({"expression": text, "acknowledgement": declared})]
        }
        Licence::Names(terms) => terms
            .iter()
            .map(|term| {
                let key = match term {
                    Term::Id(_) => "id",
                    Term::Name(_) => "name",
                };
                json!({"license": {key: term.as_str(), "acknowledgement": declared}})
            })
            .collect(),
    }
}

fn dependencies(materials: &Materials) -> Vec<Value> {
    let info = |place: &usize| json!(materials.packages[*place].info);
    let roots = |is_base| materials.roots(is_base);
    let mut of_image: Vec<Value> = roots(false).iter().map(info).collect();
    let of_base: Vec<Value> = roots(true).iter().map(info).collect();
    let mut all = Vec::new();
    if materials.base.is_some() {
        of_image.insert(0, json!(BASE));
        all.push(json!({"ref": BASE, "dependsOn": of_base}));
    } else {
        of_image.extend(of_base);
    }
    all.insert(0, json!({"ref": IMAGE, "dependsOn": of_image}));
    all.extend(materials.packages.iter().map(|package| {
        let requires: Vec<_> = package.requires.iter().map(info).collect();
        json!({"ref": package.info, "dependsOn": requires})
    }));
    all
}
