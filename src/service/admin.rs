//! What `longshore` the command asks beyond the CRI. On the CRI socket, which
//! root alone may open.

use std::path::PathBuf;

use longshore_proto::admin::v1::admin_server::Admin;
use longshore_proto::admin::v1::*;
use tonic::{Request, Response, Status};

use super::convert::bad;
use crate::image::Images;

/// The admin service.
#[derive(Debug)]
pub struct AdminRpcs {
    /// All images.
    pub images: Images,
}

#[tonic::async_trait]
impl Admin for AdminRpcs {
    async fn import_image(
        &self,
        request: Request<ImportImageRequest>,
    ) -> Result<Response<ImportImageResponse>, Status> {
        let ImportImageRequest { path, names } = request.into_inner();
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(bad("path", path.display(), "is not absolute").into());
        }
        let imported = self.images.import(path, names).await?;
        let images = imported.into_iter().map(|image| ImportedImage {
            id: image.id.into(),
            names: image.names,
        });
        Ok(Response::new(ImportImageResponse {
            images: images.collect(),
        }))
    }
}
