use super::*;
use serde_json::{Value, json};

fn digest(byte: &str) -> String {
    format!("sha256:{}", byte.repeat(32))
}

fn layer(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest("ab"), "size": 7})
}

fn manifest(layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest("cd"), "size": 3
        },
        "layers": layers,
    })
}

fn parsed(document: &Value, content_type: Option<&str>) -> Result<Document, PlanError> {
    parse(document.to_string().as_bytes(), content_type)
}

#[test]
fn reads_every_layer_type_of_oci_and_docker() {
    let types = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ];
    let layers: Vec<Value> = types.iter().map(|t| layer(t)).collect();
    let Document::Manifest(read) = parsed(&manifest(&layers), None).unwrap() else {
        panic!("not a manifest");
    };
    assert_eq!(read.layers.len(), types.len());
    assert_eq!(read.layers[0].digest.as_str(), digest("ab"));
    assert_eq!(read.config.size, 3);
}

#[test]
fn refuses_layers_it_cannot_or_may_not_get() {
    for (media_type, foreign) in [
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            true,
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            true,
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            false,
        ),
        ("application/x-squashfs", false),
    ] {
        let error = parsed(&manifest(&[layer(media_type)]), None).unwrap_err();
        assert_eq!(
            matches!(error, PlanError::Foreign(_)),
            foreign,
            "{media_type}"
        );
        assert_eq!(
            matches!(error, PlanError::LayerType { .. }),
            !foreign,
            "{media_type}"
        );
    }
}

#[test]
fn refuses_what_is_no_image() {
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let index = "application/vnd.oci.image.index.v1+json";
    let plain = manifest(&[]);
    let mut both = plain.clone();
    both["manifests"] = json!([]);
    let mut helm = plain.clone();
    helm["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    let mut sha512 = plain.clone();
    sha512["config"]["digest"] = json!(format!("sha512:{}", "00".repeat(64)));
    let old = json!({"schemaVersion": 1, "fsLayers": []});
    let mut claims_index = plain.clone();
    claims_index["mediaType"] = json!(index);
    for (document, content_type, expected) in [
        (&plain, Some(index), "neither clearly"),
        (&both, None, "neither clearly"),
        (&claims_index, Some(docker), "neither clearly"),
        (&json!({"schemaVersion": 2}), None, "neither clearly"),
        (&helm, None, "artifact"),
        (&sha512, None, "sha256 only"),
        (&old, None, "schema 1"),
        (&plain, Some("application/vnd.example"), "vnd.example"),
        (&json!([]), None, "not valid"),
    ] {
        let error = parsed(document, content_type).unwrap_err().to_string();
        assert!(error.contains(expected), "{document}: {error}");
    }
    assert!(parsed(&plain, Some(docker)).is_ok());
    assert!(parsed(&plain, Some("application/json")).is_ok());
    assert!(parse(b"{\"schemaVersion\":2,", None).is_err());
}

#[test]
fn too_many_layers_are_refused_before_any_is_fetched() {
    let layers = vec![layer("application/vnd.oci.image.layer.v1.tar"); MAX_LAYERS + 1];
    let error = parsed(&manifest(&layers), None).unwrap_err();
    assert!(matches!(error, PlanError::TooManyLayers(n) if n == MAX_LAYERS + 1));
}

#[test]
fn chooses_from_an_index_or_names_what_there_is() {
    let entry = |arch: &str, byte: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(byte), "size": 1,
            "platform": {"os": "linux", "architecture": arch}
        })
    };
    let index =
        json!({"schemaVersion": 2, "manifests": [entry("arm64", "aa"), entry("amd64", "bb")]});
    let Document::Index(manifests) = parsed(&index, None).unwrap() else {
        panic!("not an index");
    };
    let amd = Platform::new(Arch::Amd64, 1);
    assert_eq!(
        choose(&manifests, &amd).unwrap().digest.as_str(),
        digest("bb")
    );
    let error = choose(&manifests, &Platform::new(Arch::s390x, 0)).unwrap_err();
    assert!(
        error.to_string().ends_with("only linux/arm64, linux/amd64"),
        "{error}"
    );
}

fn config(arch: &str, diff_ids: &[String]) -> Vec<u8> {
    let value = json!({
        "os": "linux", "architecture": arch,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    value.to_string().into_bytes()
}

#[test]
fn pairs_layers_with_diff_ids() {
    let amd = Platform::new(Arch::Amd64, 1);
    let tar = layer("application/vnd.oci.image.layer.v1.tar");
    let Document::Manifest(two) = parsed(&manifest(&[tar.clone(), tar]), None).unwrap() else {
        panic!("not a manifest");
    };
    let good = read_config(&config("amd64", &[digest("01"), digest("02")]), &amd).unwrap();
    let work = layers(&two, &good).unwrap();
    assert_eq!(work[1].diff_id.to_string(), digest("02"));
    let short = read_config(&config("", &[digest("01")]), &amd).unwrap();
    assert!(matches!(
        layers(&two, &short),
        Err(PlanError::LayerCount {
            layers: 2,
            diff_ids: 1
        })
    ));
    let odd = read_config(&config("amd64", &[digest("01"), "../x".into()]), &amd).unwrap();
    assert!(matches!(layers(&two, &odd), Err(PlanError::Digest(_))));
    assert!(matches!(
        read_config(&config("arm64", &[]), &amd),
        Err(PlanError::NoPlatform { .. })
    ));
}
