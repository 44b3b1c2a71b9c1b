//! CRI `ImageService`: each method converts, calls and renders.

use longshore_proto::cri::v1::image_service_server::ImageService;
use longshore_proto::cri::v1::*;
use tonic::{Request, Response, Status};

use super::convert::image as convert;
use super::runtime::Answers;
use crate::image::Images;

/// The image half of the CRI.
#[derive(Debug)]
pub struct ImageRpcs {
    /// All images.
    pub images: Images,
}

type Answer<T> = Result<Response<T>, Status>;

fn reply<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

impl ImageRpcs {
    /// All images, or those that the filter's name means.
    fn find(&self, filter: Option<ImageFilter>) -> Result<Vec<Image>, Status> {
        let found = match convert::filter(filter) {
            None => self.images.list(),
            Some(name) => self.images.get(&name)?.into_iter().collect(),
        };
        Ok(found.iter().map(|image| convert::render(image)).collect())
    }
}

#[tonic::async_trait]
impl ImageService for ImageRpcs {
    type StreamImagesStream = Answers<StreamImagesResponse>;

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        reply(ListImagesResponse {
            images: self.find(request.into_inner().filter)?,
        })
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let found = self.find(request.into_inner().filter)?;
        reply(Box::pin(tokio_stream::iter(convert::batches(found))))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Answer<ImageStatusResponse> {
        let request = request.into_inner();
        let found = self.images.get(&convert::name(request.image)?)?;
        reply(convert::status(found.as_deref(), request.verbose))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = convert::pull(request.into_inner())?;
        let id = self.images.pull(request).await?;
        reply(PullImageResponse {
            image_ref: id.into(),
        })
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Answer<RemoveImageResponse> {
        let name = convert::name(request.into_inner().image)?;
        self.images.remove(&name).await?;
        reply(RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        reply(convert::fs_info(&self.images.fs_info().await?))
    }
}
