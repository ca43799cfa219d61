//! What the hub holds: pushing, tagging, moving, deleting, hiding.

use std::borrow::Borrow;
use std::collections::BTreeSet;

use bytes::Bytes;

use super::super::image::{Image, ImageSpec, PlatformImage, digest_of};
use super::FakeHub;
use super::state::Manifest;

impl FakeHub {
    /// Pushes an image under a tag, and names its parts for [`Self::summary`]: `index`, and per
    /// platform `amd64.manifest`, `amd64.config`, `amd64.layer0`, `amd64.layer1`, … A part that
    /// was pushed before keeps its name; a new part whose name is taken gets `#2`, `#3`, …
    pub fn push_image(&self, repository: &str, tag: &str, spec: impl Borrow<ImageSpec>) -> Image {
        let image = spec.borrow().build();
        let with_index = image.digest != image.first().digest;
        for platform in &image.platforms {
            self.push_platform(repository, platform);
        }
        if with_index {
            self.name_if_new(&image.digest, "index");
        }
        self.push_manifest(
            repository,
            Some(tag),
            &image.media_type,
            image.bytes.clone(),
        );
        image
    }

    fn push_platform(&self, repository: &str, image: &PlatformImage) {
        let name = &image.platform.architecture;
        self.push_manifest(repository, None, &image.media_type, image.bytes.clone());
        self.name_if_new(&image.digest, &format!("{name}.manifest"));
        for blob in image.blobs() {
            self.push_blob_as(repository, &blob.digest, blob.bytes.clone());
        }
        self.name_if_new(&image.config.digest, &format!("{name}.config"));
        for (number, layer) in image.layers.iter().enumerate() {
            self.name_if_new(&layer.digest, &format!("{name}.layer{number}"));
        }
    }

    /// Pushes a blob; returns its sha256 digest.
    pub fn push_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        self.push_blob_as(repository, &digest, bytes);
        digest
    }

    /// Serves those bytes under that digest, true or not.
    pub fn push_blob_as(&self, repository: &str, digest: &str, bytes: impl Into<Bytes>) {
        let mut state = self.shared.state();
        state.blobs.insert(digest.to_owned(), bytes.into());
        state.repository(repository).blobs.insert(digest.to_owned());
    }

    /// Pushes a manifest or index, under a tag as well when one is given; returns its digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            bytes,
        };
        let mut state = self.shared.state();
        let held = state.repository(repository);
        held.manifests.insert(digest.clone(), manifest);
        if let Some(tag) = tag {
            held.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }

    /// Points a tag, old or new, at a digest the repository holds.
    pub fn move_tag(&self, repository: &str, tag: &str, digest: &str) {
        let mut state = self.shared.state();
        let held = state.repository(repository);
        assert!(held.manifests.contains_key(digest), "no {digest} to tag");
        held.tags.insert(tag.to_owned(), digest.to_owned());
    }

    /// Removes a tag; what it pointed at stays.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.shared.state().repository(repository).tags.remove(tag);
    }

    /// Removes a repository, as if it had never been.
    pub fn delete_repository(&self, repository: &str) {
        self.shared.state().repositories.remove(repository);
    }

    /// Lets that user alone (and those of earlier calls) pull the repository.
    pub fn make_private(&self, repository: &str, user: &str) {
        let mut state = self.shared.state();
        let readers = &mut state.repository(repository).readers;
        readers
            .get_or_insert_with(BTreeSet::new)
            .insert(user.to_owned());
    }

    /// Lets everyone pull the repository.
    pub fn make_public(&self, repository: &str) {
        self.shared.state().repository(repository).readers = None;
    }

    /// Names a digest for [`Self::summary`].
    pub fn name(&self, digest: &str, name: &str) {
        self.shared.state().names.set(digest, name);
    }

    fn name_if_new(&self, digest: &str, name: &str) {
        self.shared.state().names.suggest(digest, name);
    }
}
