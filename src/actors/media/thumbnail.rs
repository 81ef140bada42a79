//! Making thumbnails. Pure: bytes of a picture in, bytes of a small one out.
//!
//! Sizes are few, so what is made of a file is bounded whatever clients ask for. Invariants: what a picture
//! says of its size is checked before memory is taken for it; what cannot be read is an error, however
//! it was broken.

use std::io::Cursor;

use fast_image_resize::{PixelType, ResizeOptions, Resizer, images::Image};
use image::{
    DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits, RgbaImage,
    codecs::{jpeg::JpegEncoder, webp::WebPDecoder},
};

/// Largest file of which a thumbnail is made: it is in memory for that.
pub(super) const FILE_LEN: u64 = 32 * 1024 * 1024;
/// Pixels of the largest picture of which one is made: what telephones take. They take 4 bytes each.
const PIXELS: u64 = 52_000_000;
/// Longest side of it.
const SIDE: u32 = 20_000;
/// Memory for reading it.
const MEMORY: u64 = 256 * 1024 * 1024;
/// Largest moving picture that is its own thumbnail.
const MOVING_LEN: usize = 4 * 1024 * 1024;
const JPEG_QUALITY: u8 = 82;

/// What a thumbnail is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThumbnailSize {
    width: u32,
    height: u32,
    /// Cut to this size; else it fits in.
    crop: bool,
}

const fn size(width: u32, height: u32, crop: bool) -> ThumbnailSize {
    ThumbnailSize { width, height, crop }
}

const SIZES: [ThumbnailSize; 8] = [
    size(32, 32, true),
    size(96, 96, true),
    size(240, 240, true),
    size(640, 640, true),
    size(320, 240, false),
    size(640, 480, false),
    size(800, 600, false),
    size(1600, 1200, false),
];

impl ThumbnailSize {
    /// Returns the smallest size that is not smaller than what is asked for, or the largest.
    pub fn for_request(width: u64, height: u64, crop: bool) -> Self {
        // Only squares are cut: what is to be another shape, clients cut themselves.
        let crop = crop && width == height;
        let fitting = SIZES.iter().filter(|one| one.crop == crop);
        let enough = |one: &&Self| u64::from(one.width) >= width && u64::from(one.height) >= height;
        let largest = || fitting.clone().next_back();
        fitting.clone().find(enough).or_else(largest).copied().unwrap_or(size(96, 96, true))
    }

    /// What files of this size are called.
    pub(super) fn file(self, kind: Kind) -> String {
        let Self { width, height, crop } = self;
        format!("{width}x{height}{}-{}", if crop { "c" } else { "" }, kind.ending())
    }

    /// How large what is made of a picture is, and whether it is cut.
    fn of(self, width: u32, height: u32) -> (u32, u32) {
        if self.crop {
            // Nothing is made larger than it is.
            let side = self.width.min(width).min(height).max(1);
            return (side, side);
        }
        let by = f64::from(self.width) / f64::from(width.max(1));
        let by = by.min(f64::from(self.height) / f64::from(height.max(1))).min(1.0);
        let scaled = |side: u32| ((f64::from(side) * by).round() as u32).max(1);
        (scaled(width), scaled(height))
    }
}

/// What a thumbnail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Jpeg,
    Png,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Jpeg, Self::Png];

    fn ending(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
        }
    }
}

fn format_of(bytes: &[u8]) -> Result<ImageFormat, String> {
    let format = image::guess_format(bytes).ok();
    let known = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP];
    let format = format.filter(|format| known.contains(format));
    format.ok_or_else(|| "it is no png, jpeg, gif or webp".to_owned())
}

/// Returns the type of a picture that moves, and is small enough to be its own thumbnail.
pub(super) fn moving(bytes: &[u8]) -> Option<&'static str> {
    if bytes.len() > MOVING_LEN {
        return None;
    }
    match format_of(bytes).ok()? {
        ImageFormat::Gif => Some("image/gif"),
        ImageFormat::WebP => {
            WebPDecoder::new(Cursor::new(bytes)).ok()?.has_animation().then_some("image/webp")
        }
        _ => None,
    }
}

/// Makes a thumbnail of a picture.
pub(super) fn make(bytes: &[u8], wanted: ThumbnailSize) -> Result<(Vec<u8>, Kind), String> {
    let told = |error: image::ImageError| error.to_string();
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format_of(bytes)?);
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE);
    limits.max_image_height = Some(SIDE);
    limits.max_alloc = Some(MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(told)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width).saturating_mul(u64::from(height));
    if pixels == 0 || pixels > PIXELS || width > SIDE || height > SIDE {
        return Err(format!("it has {width}x{height} pixels, and {PIXELS} are read at most"));
    }
    let orientation = decoder.orientation().map_err(told)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(told)?;
    picture.apply_orientation(orientation);
    let opaque = !picture.color().has_alpha();
    let picture = picture.into_rgba8();
    let (width, height) = picture.dimensions();
    let fault = |error: &dyn std::fmt::Display| error.to_string();
    let source = Image::from_vec_u8(width, height, picture.into_raw(), PixelType::U8x4)
        .map_err(|error| fault(&error))?;
    let (width, height) = wanted.of(width, height);
    let mut small = Image::new(width, height, PixelType::U8x4);
    let options = ResizeOptions::new().fit_into_destination(Some((0.5, 0.5)));
    Resizer::new().resize(&source, &mut small, &options).map_err(|error| fault(&error))?;
    let small = RgbaImage::from_raw(width, height, small.into_vec()).ok_or("it has no pixels")?;
    let small = DynamicImage::ImageRgba8(small);
    let mut out = Cursor::new(Vec::new());
    let kind = if opaque { Kind::Jpeg } else { Kind::Png };
    match kind {
        Kind::Jpeg => {
            let encoder = JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY);
            small.to_rgb8().write_with_encoder(encoder).map_err(told)?;
        }
        Kind::Png => small.write_to(&mut out, ImageFormat::Png).map_err(told)?,
    }
    Ok((out.into_inner(), kind))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn picture(width: u32, height: u32, alpha: bool) -> DynamicImage {
        let picture = RgbaImage::from_fn(width, height, |x, y| {
            image::Rgba([x as u8, y as u8, 99, if alpha { x as u8 } else { 255 }])
        });
        let picture = DynamicImage::ImageRgba8(picture);
        if alpha { picture } else { picture.into_rgb8().into() }
    }

    pub(crate) fn encoded(width: u32, height: u32, alpha: bool, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        picture(width, height, alpha).write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    #[test]
    fn sizes_are_few_and_large_enough() {
        for (width, height, crop, wanted) in [
            (36, 36, true, size(96, 96, true)),
            (32, 32, true, size(32, 32, true)),
            (9000, 9000, true, size(640, 640, true)),
            (160, 90, true, size(320, 240, false)),
            (800, 600, false, size(800, 600, false)),
            (801, 1, false, size(1600, 1200, false)),
            (u64::MAX, u64::MAX, false, size(1600, 1200, false)),
            (0, 0, false, size(320, 240, false)),
        ] {
            assert_eq!(ThumbnailSize::for_request(width, height, crop), wanted);
        }
    }

    #[test]
    fn thumbnails_of_all_kinds_fit() {
        let (fits, cut) = (size(320, 240, false), size(96, 96, true));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
            let alpha = format != ImageFormat::Jpeg;
            for (wanted, size) in [(fits, (320, 107)), (cut, (96, 96))] {
                let (made, kind) = make(&encoded(900, 300, alpha, format), wanted).unwrap();
                let read = image::load_from_memory(&made).unwrap();
                assert_eq!((read.width(), read.height()), size, "{format:?}");
                assert_eq!(kind, if alpha { Kind::Png } else { Kind::Jpeg });
            }
        }
        // Nothing grows.
        for (wanted, size) in [(fits, (40, 20)), (cut, (20, 20))] {
            let (made, _) = make(&encoded(40, 20, false, ImageFormat::Png), wanted).unwrap();
            let read = image::load_from_memory(&made).unwrap();
            assert_eq!((read.width(), read.height()), size);
        }
        let thin = make(&encoded(2000, 1, false, ImageFormat::Png), fits).unwrap();
        assert_eq!(image::load_from_memory(&thin.0).unwrap().height(), 1);
    }

    #[test]
    fn what_is_no_picture_or_lies_is_refused() {
        let wanted = size(96, 96, true);
        let good = encoded(64, 64, true, ImageFormat::Png);
        // A header that promises four thousand million pixels.
        let mut bomb = good.clone();
        bomb[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let mut gif = encoded(8, 8, false, ImageFormat::Gif);
        gif[6..10].copy_from_slice(&[0xff; 4]);
        for wrong in [&b""[..], b"<svg/>", b"GIF89a", &good[..40], &bomb, &gif, &[0x89, b'P', b'N']]
        {
            assert!(make(wrong, wanted).is_err());
        }
    }

    #[test]
    fn gifs_move_and_other_pictures_do_not() {
        assert_eq!(moving(&encoded(8, 8, false, ImageFormat::Gif)), Some("image/gif"));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            assert_eq!(moving(&encoded(8, 8, false, format)), None);
        }
        assert_eq!(moving(b"GIF"), None);
    }

    #[test]
    fn fuzz_pictures() {
        let formats = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP];
        let seeds = formats.map(|format| encoded(9, 7, format != ImageFormat::Jpeg, format));
        crate::fuzz::bytes("pictures", seeds.to_vec(), |bytes| {
            let made = make(bytes, size(32, 32, true));
            if let Ok((made, _)) = &made {
                assert!(image::load_from_memory(made).is_ok());
            }
            format!("{:?} {:?}", made.map(|(_, kind)| kind).is_ok(), moving(bytes))
        });
    }
}
