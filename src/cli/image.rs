//! `longshore image`: images by the daemon's socket.

use std::error::Error;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use longshore_proto::admin::v1::ImportImageRequest;
use longshore_proto::admin::v1::admin_client::AdminClient;
use longshore_proto::cri::v1::image_service_client::ImageServiceClient;
use longshore_proto::cri::v1::{Image, ListImagesRequest};
use tonic::Status;
use tonic::transport::Channel;

use super::client;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Imports an OCI image layout (directory, tar, tar.gz) or a docker-archive.
    Import(Import),
    /// Lists images.
    Ls(Ls),
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The layout or the archive.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Name to give to the image, in place of those that the archive holds.
    #[arg(long = "name", value_name = "REF")]
    names: Vec<String>,
    #[command(flatten)]
    socket: client::Socket,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    socket: client::Socket,
}

impl Command {
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Import(import) => {
                client::run(import.socket.clone(), |channel| import.run(channel))
            }
            Self::Ls(ls) => client::run(ls.socket, list),
        }
    }
}

impl Import {
    async fn run(self, channel: Channel) -> Result<(), Box<dyn Error>> {
        let request = ImportImageRequest {
            path: utf8(&std::path::absolute(&self.path)?)?,
            names: self.names,
        };
        let answer = AdminClient::new(channel).import_image(request).await;
        for image in answer.map_err(Refused::from)?.into_inner().images {
            let names = match image.names.is_empty() {
                true => "<none>".to_owned(),
                false => image.names.join(" "),
            };
            println!("{}  {names}", image.id);
        }
        Ok(())
    }
}

async fn list(channel: Channel) -> Result<(), Box<dyn Error>> {
    let mut service = ImageServiceClient::new(channel);
    let answer = service.list_images(ListImagesRequest::default()).await;
    print!(
        "{}",
        table(&answer.map_err(Refused::from)?.into_inner().images)
    );
    Ok(())
}

/// What the daemon answered, without the transport's own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(status.message().to_owned())
    }
}

fn utf8(path: &std::path::Path) -> Result<String, Box<dyn Error>> {
    let text = path.to_str();
    text.map(str::to_owned)
        .ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}

/// A row for each tag, or one for an image without, in crictl's columns.
fn table(images: &[Image]) -> String {
    let mut rows = vec![["IMAGE", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned)];
    for image in images {
        let hex = image.id.trim_start_matches("sha256:");
        let id: String = hex.chars().take(13).collect();
        for (name, tag) in names(image) {
            rows.push([name, tag, id.clone(), size(image.size)]);
        }
    }
    let widths = [0, 1, 2].map(|column: usize| {
        let lengths = rows.iter().filter_map(|row| row.get(column));
        lengths.map(String::len).max().unwrap_or(0)
    });
    let [name_width, tag_width, id_width] = widths;
    let line = |[name, tag, id, size]: &[String; 4]| {
        format!("{name:name_width$}  {tag:tag_width$}  {id:id_width$}  {size}\n")
    };
    rows.iter().map(line).collect()
}

fn names(image: &Image) -> Vec<(String, String)> {
    let none = || "<none>".to_owned();
    let split = |name: &String, at: char| {
        let (left, right) = name.rsplit_once(at).unwrap_or((name, "<none>"));
        (left.to_owned(), right.to_owned())
    };
    if !image.repo_tags.is_empty() {
        return image.repo_tags.iter().map(|tag| split(tag, ':')).collect();
    }
    match image.repo_digests.first() {
        Some(digest) => vec![(split(digest, '@').0, none())],
        None => vec![(none(), none())],
    }
}

/// Three significant digits in decimal units, as crictl prints them.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            let digits = match value {
                v if unit == "B" || v >= 99.95 => 0,
                v if v >= 9.995 => 1,
                _ => 2,
            };
            return format!("{value:.digits$}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.2}TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_a_row_a_name() {
        let images = [
            Image {
                id: format!("sha256:{}", "ab".repeat(32)),
                repo_tags: vec!["r.example:5000/a:1".into(), "r.example:5000/a:2".into()],
                size: 4_269_694,
                ..Image::default()
            },
            Image {
                id: format!("sha256:{}", "cd".repeat(32)),
                repo_digests: vec!["r.example/b@sha256:00".into()],
                size: 12,
                ..Image::default()
            },
            Image::default(),
        ];
        let expected = "\
IMAGE             TAG     IMAGE ID       SIZE
r.example:5000/a  1       ababababababa  4.27MB
r.example:5000/a  2       ababababababa  4.27MB
r.example/b       <none>  cdcdcdcdcdcdc  12B
<none>            <none>                 0B
";
        assert_eq!(table(&images), expected);
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (12_345, "12.3kB"),
            (999_600, "1.00MB"),
            (326_000_000, "326MB"),
            (1_500_000_000_000, "1.50TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
