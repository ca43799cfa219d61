use super::*;

#[test]
fn accept_is_the_four_known_types() {
    let types: Vec<MediaType> = ACCEPT_MANIFESTS.split(", ").map(MediaType::parse).collect();
    let known = [
        MediaType::OciIndex,
        MediaType::OciManifest,
        MediaType::DockerManifestList,
        MediaType::DockerManifest,
    ];
    assert_eq!(types, known);
    assert_eq!(
        types
            .iter()
            .filter(|media_type| media_type.is_index())
            .count(),
        2
    );
    assert_eq!(
        types
            .iter()
            .filter(|media_type| media_type.is_manifest())
            .count(),
        2
    );
}

#[test]
fn parameters_blanks_and_case_do_not_matter() {
    for text in [
        " application/vnd.docker.distribution.manifest.v2+json ; charset=utf-8",
        "Application/VND.docker.distribution.manifest.v2+JSON",
        "application/vnd.docker.distribution.manifest.v2+json;",
    ] {
        assert_eq!(MediaType::parse(text), MediaType::DockerManifest, "{text}");
    }
}

#[test]
fn other_types_are_kept_as_written_and_cut() {
    assert_eq!(
        MediaType::parse("text/HTML; charset=utf-8").as_str(),
        "text/HTML"
    );
    assert_eq!(MediaType::parse("").as_str(), "");
    assert_eq!(
        MediaType::parse(&"ä".repeat(LIMIT)).as_str(),
        "ä".repeat(LIMIT / 2)
    );
}

#[test]
fn schema_1_and_foreign_layers_are_known() {
    assert!(
        MediaType::parse("application/vnd.docker.distribution.manifest.v1+prettyjws").is_schema_1()
    );
    assert!(!MediaType::DockerManifest.is_schema_1());
    for foreign in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ] {
        assert!(MediaType::parse(foreign).is_nondistributable(), "{foreign}");
    }
    assert!(!MediaType::parse("application/vnd.oci.image.layer.v1.tar+gzip").is_nondistributable());
}
