//! That an image depends on the sources and the compiler alone. A second build in another folder takes minutes, so these look for what
//! would make it differ.

use std::{fs, os::unix::ffi::OsStrExt};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::Check;
use crate::install::{self, Image};

pub(super) const CHECKS: [Check; 2] = [
    ("the programs do not say where they were built", say_nothing_of_where),
    ("from the same programs come the same images", same_twice),
];

fn say_nothing_of_where() -> Result<()> {
    let images = install::build_images()?;
    for Image { program, .. } in [&images.operator, &images.agent] {
        let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        for (folder, name) in install::folders()? {
            let of = folder.as_os_str().as_bytes();
            // In a container it may be there that it is built.
            let says = of != name.as_bytes() && bytes.windows(of.len()).any(|window| window == of);
            ensure!(!says, "{} has {} in it, which was to be {name}", program.display(), folder.display());
        }
    }
    Ok(())
}

fn same_twice() -> Result<()> {
    let build = || {
        let images = install::build_images()?;
        let archive = |image: &Image| Ok::<_, anyhow::Error>(Sha256::digest(fs::read(&image.archive)?));
        let archives = [archive(&images.operator)?, archive(&images.agent)?];
        Ok::<_, anyhow::Error>((images.operator.digest, images.agent.digest, archives))
    };
    let (first, second) = (build()?, build()?);
    ensure!(first == second, "{first:?} and then {second:?}");
    Ok(())
}
