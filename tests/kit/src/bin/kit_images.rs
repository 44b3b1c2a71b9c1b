//! `kit_images [NAME...]`: makes test images, all of them if none is named, and lists each: name,
//! digest, config digest, layout.

use std::process::ExitCode;

use longshore_kit::image::{Image, Recipe};

fn main() -> ExitCode {
    let mut failed = false;
    let mut recipes = Vec::new();
    for name in std::env::args().skip(1) {
        match Recipe::by_name(&name) {
            Some(recipe) => recipes.push(recipe),
            None => {
                failed = true;
                eprintln!("{name}: no such image");
            }
        }
    }
    if recipes.is_empty() && !failed {
        recipes.extend(Recipe::ALL);
    }
    for recipe in recipes {
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
