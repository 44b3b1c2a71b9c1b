//! Makes every test image and lists them: name, kind, digest, config digest, layout.

use std::process::ExitCode;

use longshore_kit::image::{Image, Recipe};

fn main() -> ExitCode {
    let mut failed = false;
    for recipe in Recipe::ALL {
        match Image::ensure(recipe).and_then(|image| describe(&image)) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                failed = true;
                eprintln!("{}: {error:#}", recipe.name());
            }
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn describe(image: &Image) -> anyhow::Result<String> {
    let descriptor = image.descriptor()?;
    Ok(format!(
        "{:20} {} config {} {}",
        image.recipe().name(),
        descriptor.digest,
        image.id()?,
        image.layout().display()
    ))
}
