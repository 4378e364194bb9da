//! What the areas of two images weigh. A layer counts for the area that most of it is of.

use std::collections::BTreeMap;

use crate::build::changes::{Area, Image, Pair};
use crate::build::inventory::Inventory;

/// What a file takes in a tar beside its bytes.
const HEADER: u64 = 512;

/// Bytes of layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// The length of their tars: what Lambda counts.
    pub unpacked: u64,
    /// The length of their blobs: what is pushed.
    pub packed: u64,
}

/// What an area weighs in both images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeChange {
    /// Which.
    pub area: Area,
    /// Its sizes; nothing where an image has no such layer.
    pub sizes: Pair<Size>,
}

/// The sizes of all areas that either image has.
pub(super) fn changes(first: &Image<'_>, second: &Image<'_>) -> Vec<SizeChange> {
    let mut areas: BTreeMap<Area, Pair<Size>> = BTreeMap::new();
    for (area, size) in layers(first) {
        add(&mut areas.entry(area).or_default().first, size);
    }
    for (area, size) in layers(second) {
        add(&mut areas.entry(area).or_default().second, size);
    }
    let areas = areas.into_iter();
    areas
        .map(|(area, sizes)| SizeChange { area, sizes })
        .collect()
}

/// All areas together.
pub(super) fn total(areas: &[SizeChange]) -> Pair<Size> {
    let mut total = Pair::default();
    for area in areas {
        add(&mut total.first, area.sizes.first);
        add(&mut total.second, area.sizes.second);
    }
    total
}

fn add(sum: &mut Size, size: Size) {
    sum.unpacked += size.unpacked;
    sum.packed += size.packed;
}

/// Each layer's area and size.
fn layers(image: &Image<'_>) -> Vec<(Area, Size)> {
    let inventory = &image.inventory;
    let mut shares: Vec<BTreeMap<Area, u64>> = vec![BTreeMap::new(); inventory.layers.len()];
    for file in &inventory.files {
        let area = match file.package {
            Some(package) => area_of_package(inventory, package),
            None => image.place(file.path).0,
        };
        *shares[file.layer].entry(area).or_default() += file.size + HEADER;
    }
    let layers = inventory.layers.iter().zip(shares);
    let layers = layers.map(|(layer, shares)| {
        let most = shares.into_iter().max_by_key(|(_, bytes)| *bytes);
        let area = if layer.is_base {
            Area::Base
        } else {
            most.map_or(Area::Elsewhere, |(area, _)| area)
        };
        let size = Size {
            unpacked: layer.unpacked,
            packed: layer.size,
        };
        (area, size)
    });
    layers.collect()
}

fn area_of_package(inventory: &Inventory<'_>, package: usize) -> Area {
    super::packages::area(&inventory.packages[package])
}
