//! Images between the CRI and the domain.

use base64::Engine as _;
use longshore_proto::cri::v1;
use serde_json::json;
use tonic::Status;

use super::BadRequest;
use crate::image::{AuthConfig, Credentials, FsUsage, Image, PullRequest};

/// Images in one message of a stream.
const BATCH: usize = 64;

/// The name in a specification; never empty.
pub fn name(spec: Option<v1::ImageSpec>) -> Result<String, BadRequest> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image),
        _ => Err(BadRequest::Missing("image")),
    }
}

/// The name that a filter asks for, if it asks for one.
pub fn filter(filter: Option<v1::ImageFilter>) -> Option<String> {
    let name = filter?.image?.image;
    (!name.is_empty()).then_some(name)
}

/// What to pull, and as whom.
pub fn pull(request: v1::PullImageRequest) -> Result<PullRequest, BadRequest> {
    Ok(PullRequest {
        reference: name(request.image)?,
        auth: request.auth.map(auth).transpose()?.unwrap_or_default(),
    })
}

/// The most specific of the forms wins: a token for the registry, one for its
/// token server, name and password, and both in one text.
fn auth(auth: v1::AuthConfig) -> Result<AuthConfig, BadRequest> {
    let credentials = if !auth.registry_token.is_empty() {
        Credentials::RegistryToken(auth.registry_token)
    } else if !auth.identity_token.is_empty() {
        Credentials::IdentityToken(auth.identity_token)
    } else if !auth.username.is_empty() {
        Credentials::Basic {
            username: auth.username,
            password: auth.password,
        }
    } else if !auth.auth.is_empty() {
        decode(&auth.auth)?
    } else {
        Credentials::Anonymous
    };
    Ok(AuthConfig {
        server_address: Some(auth.server_address).filter(|address| !address.is_empty()),
        credentials,
    })
}

/// base64 of `user:password`. Its content is in no error.
fn decode(text: &str) -> Result<Credentials, BadRequest> {
    let bad = || super::bad("auth.auth", "...", "is not base64 of user:password");
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| bad())?;
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    let (username, password) = text.split_once(':').ok_or_else(bad)?;
    Ok(Credentials::Basic {
        username: username.to_owned(),
        // Some tools pad with NUL.
        password: password.trim_matches('\0').to_owned(),
    })
}

/// An image of the list.
#[must_use]
pub fn render(image: &Image) -> v1::Image {
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: image.uid.map(|value| v1::Int64Value { value }),
        username: image.username.clone(),
        spec: Some(v1::ImageSpec {
            image: image.id.to_string(),
            ..v1::ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

/// The answer of ImageStatus: no image is an empty one.
#[must_use]
pub fn status(image: Option<&Image>, verbose: bool) -> v1::ImageStatusResponse {
    v1::ImageStatusResponse {
        image: image.map(render),
        info: image
            .map(|image| super::info(verbose, || info(image)))
            .unwrap_or_default(),
    }
}

fn info(image: &Image) -> serde_json::Value {
    let layers: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
    json!({ "imageSpec": *image.config, "layers": layers })
}

/// Messages of a stream: each with an image at least, none where there is none.
pub fn batches(images: Vec<v1::Image>) -> Vec<Result<v1::StreamImagesResponse, Status>> {
    let batch = |images: &[v1::Image]| v1::StreamImagesResponse {
        images: images.to_vec(),
    };
    images.chunks(BATCH).map(|part| Ok(batch(part))).collect()
}

/// Containers write to the file system of the images, so both lists are one.
#[must_use]
pub fn fs_info(usages: &[FsUsage]) -> v1::ImageFsInfoResponse {
    let render = |usage: &FsUsage| v1::FilesystemUsage {
        timestamp: usage.at,
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: usage.mountpoint.display().to_string(),
        }),
        used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
        inodes_used: Some(v1::UInt64Value {
            value: usage.inodes,
        }),
    };
    let all: Vec<v1::FilesystemUsage> = usages.iter().map(render).collect();
    v1::ImageFsInfoResponse {
        image_filesystems: all.clone(),
        container_filesystems: all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic {
            username: username.into(),
            password: password.into(),
        }
    }

    #[test]
    fn reads_every_form_of_credentials() {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let empty = v1::AuthConfig::default;
        for (message, expected) in [
            (empty(), Credentials::Anonymous),
            (
                v1::AuthConfig {
                    username: "u".into(),
                    password: "p:q".into(),
                    ..empty()
                },
                basic("u", "p:q"),
            ),
            (
                v1::AuthConfig {
                    auth: encode("u:p:q\0"),
                    ..empty()
                },
                basic("u", "p:q"),
            ),
            (
                v1::AuthConfig {
                    identity_token: "i".into(),
                    username: "u".into(),
                    ..empty()
                },
                Credentials::IdentityToken("i".into()),
            ),
            (
                v1::AuthConfig {
                    registry_token: "r".into(),
                    ..empty()
                },
                Credentials::RegistryToken("r".into()),
            ),
        ] {
            assert_eq!(auth(message).unwrap().credentials, expected);
        }
        for wrong in ["!", "bm9jb2xvbg=="] {
            let message = v1::AuthConfig {
                auth: wrong.into(),
                ..empty()
            };
            let error = auth(message).unwrap_err().to_string();
            assert!(!error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn an_empty_name_is_a_bad_request_and_an_empty_filter_is_none() {
        assert!(name(None).is_err());
        assert!(name(Some(v1::ImageSpec::default())).is_err());
        assert_eq!(filter(Some(v1::ImageFilter::default())), None);
        let spec = Some(v1::ImageSpec::default());
        assert_eq!(filter(Some(v1::ImageFilter { image: spec })), None);
    }

    #[test]
    fn a_stream_has_no_empty_message() {
        assert!(batches(vec![]).is_empty());
        let many = vec![v1::Image::default(); BATCH + 1];
        let sizes: Vec<usize> = batches(many)
            .into_iter()
            .map(|b| b.unwrap().images.len())
            .collect();
        assert_eq!(sizes, [BATCH, 1]);
    }
}
