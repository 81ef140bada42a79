//! What a picture is, by its first bytes. Pure.

use std::io::Cursor;

use image::{ImageFormat, ImageReader};

/// Bytes of the beginning that tell: before the size, a photo may say where and how it was taken.
pub(super) const BEGINNING: usize = 256 * 1024;

/// What a picture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) content_type: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// Tells what it is, whatever it was declared to be; nothing where no client of ours shows such.
pub(super) fn measure(beginning: &[u8]) -> Option<Picture> {
    let reader = ImageReader::new(Cursor::new(beginning)).with_guessed_format().ok()?;
    let content_type = match reader.format()? {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::Gif => "image/gif",
        ImageFormat::WebP => "image/webp",
        _ => return None,
    };
    let (width, height) = reader.into_dimensions().ok()?;
    Some(Picture { content_type, width, height })
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageFormat};

    use super::*;

    #[test]
    fn a_picture_is_what_its_bytes_say() {
        for (format, content_type) in [
            (ImageFormat::Png, "image/png"),
            (ImageFormat::Jpeg, "image/jpeg"),
            (ImageFormat::Gif, "image/gif"),
            (ImageFormat::WebP, "image/webp"),
        ] {
            let mut bytes = Cursor::new(Vec::new());
            DynamicImage::new_rgb8(7, 5).write_to(&mut bytes, format).unwrap();
            let picture = measure(bytes.get_ref());
            assert_eq!(picture, Some(Picture { content_type, width: 7, height: 5 }));
        }
        for none in [&b""[..], b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"] {
            assert_eq!(measure(none), None);
        }
    }
}
