//! A file that is sealed with a passphrase, a piece at a time (docs/journal.md has the format).
//!
//! The key is argon2id of the passphrase; the pieces are a STREAM of ChaCha20-Poly1305, so that none can be
//! changed, left out or put elsewhere, and the file cannot be cut off. Invariants: nothing of a
//! piece is given out before its tag was checked; what the header asks for is bounded.

use std::io::{self, BufRead, Read, Write};

use aead_stream::{DecryptorBE32, EncryptorBE32};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, aead::Payload};

/// First bytes of a backup, with the version of its format.
const MAGIC: [u8; 8] = *b"MHBACKU1";
/// Bytes of the header: magic, three parameters, salt, nonce, check.
const HEADER: usize = 8 + 12 + 16 + 7 + 32;
/// What of it the check is about.
const CHECKED: usize = HEADER - 32;
/// Bytes that are sealed together.
const PIECE: usize = 64 * 1024;
/// Bytes of a tag.
const TAG: usize = 16;
/// What a new file costs to open: 64 MiB and three passes, about a quarter of a second.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// Most that a file may ask for: 1 GiB, 16 passes, 4 lanes.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 4;

/// Why a file cannot be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is no such file, or one of a newer program.
    Foreign,
    /// Another passphrase.
    Passphrase,
    /// The file cannot be read.
    Failed(String),
}

/// The parameters, salt and nonce of a file.
struct Header([u8; CHECKED]);

impl Header {
    fn new(salt: [u8; 16], nonce: [u8; 7]) -> Self {
        let mut bytes = MAGIC.to_vec();
        for number in [MEMORY_KIB, PASSES, 1] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(salt);
        bytes.extend(nonce);
        Self(bytes.try_into().unwrap_or([0; CHECKED]))
    }

    fn part<const LEN: usize>(&self, at: usize) -> [u8; LEN] {
        let part = self.0.get(at..).and_then(|rest| rest.first_chunk::<LEN>());
        part.copied().unwrap_or([0; LEN])
    }

    fn nonce(&self) -> [u8; 7] {
        self.part(36)
    }

    /// Returns the key and the check; none where the header asks for what nobody should do.
    fn derive(&self, passphrase: &str) -> Option<([u8; 32], [u8; 32])> {
        let number = |at| u32::from_be_bytes(self.part(at));
        let (memory, passes, lanes) = (number(8), number(12), number(16));
        if self.part(0) != MAGIC
            || memory > MEMORY_KIB_MAX
            || passes > PASSES_MAX
            || lanes > LANES_MAX
        {
            return None;
        }
        let params = Params::new(memory, passes, lanes, Some(32)).ok()?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut master = [0; 32];
        argon.hash_password_into(passphrase.as_bytes(), &self.part::<16>(20), &mut master).ok()?;
        let check = blake3::Hasher::new_derive_key("messagehub backup check 1")
            .update(&master)
            .update(&self.0)
            .finalize();
        Some((blake3::derive_key("messagehub backup key 1", &master), *check.as_bytes()))
    }
}

/// Writes a sealed file.
pub(super) struct Sealer<W> {
    out: W,
    encryptor: EncryptorBE32<ChaCha20Poly1305>,
    header: Header,
    piece: Vec<u8>,
}

impl<W: Write> Sealer<W> {
    /// Begins a file. `salt` and `nonce` are random.
    pub(super) fn new(
        mut out: W,
        passphrase: &str,
        salt: [u8; 16],
        nonce: [u8; 7],
    ) -> io::Result<Self> {
        let header = Header::new(salt, nonce);
        let derived = header.derive(passphrase);
        let (key, check) = derived.ok_or_else(|| io::Error::other("argon2 refused"))?;
        out.write_all(&header.0)?;
        out.write_all(&check)?;
        let cipher = ChaCha20Poly1305::new(&key.into());
        let encryptor = EncryptorBE32::from_aead(cipher, &header.nonce().into());
        Ok(Self { out, encryptor, header, piece: Vec::with_capacity(PIECE) })
    }

    /// Seals what is left, as the last piece.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let payload = Payload { msg: &self.piece, aad: &self.header.0 };
        let sealed = self.encryptor.encrypt_last(payload).map_err(|_| refused())?;
        self.out.write_all(&sealed)?;
        Ok(self.out)
    }
}

fn refused() -> io::Error {
    io::Error::other("a piece could not be sealed")
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            let payload = Payload { msg: &self.piece, aad: &self.header.0 };
            let sealed = self.encryptor.encrypt_next(payload).map_err(|_| refused())?;
            self.out.write_all(&sealed)?;
            self.piece.clear();
        }
        let len = bytes.len().min(PIECE.saturating_sub(self.piece.len()));
        self.piece.extend(bytes.iter().take(len));
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a sealed file.
pub(super) struct Opener<R> {
    input: R,
    decryptor: Option<DecryptorBE32<ChaCha20Poly1305>>,
    header: Header,
    piece: Vec<u8>,
    at: usize,
}

impl<R: BufRead> Opener<R> {
    /// Begins to read; tells a wrong passphrase from a damage further on.
    pub(super) fn new(mut input: R, passphrase: &str) -> Result<Self, Refused> {
        let (mut header, mut check) = ([0; CHECKED], [0; 32]);
        let read = input.read_exact(&mut header).and_then(|()| input.read_exact(&mut check));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Refused::Foreign,
            _ => Refused::Failed(error.to_string()),
        })?;
        let header = Header(header);
        let (key, expected) = header.derive(passphrase).ok_or(Refused::Foreign)?;
        if check != expected {
            return Err(Refused::Passphrase);
        }
        let cipher = ChaCha20Poly1305::new(&key.into());
        let decryptor = DecryptorBE32::from_aead(cipher, &header.nonce().into());
        Ok(Self { input, decryptor: Some(decryptor), header, piece: Vec::new(), at: 0 })
    }

    /// Opens the next piece; none after the last one.
    fn open(&mut self) -> io::Result<bool> {
        let Some(mut decryptor) = self.decryptor.take() else { return Ok(false) };
        let mut sealed = Vec::with_capacity(PIECE + TAG);
        self.input.by_ref().take((PIECE + TAG) as u64).read_to_end(&mut sealed)?;
        let is_last = self.input.fill_buf()?.is_empty();
        let payload = Payload { msg: &sealed, aad: &self.header.0 };
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, "a seal is broken");
        self.piece = match is_last {
            true => decryptor.decrypt_last(payload).map_err(damaged)?,
            false => {
                let piece = decryptor.decrypt_next(payload).map_err(damaged)?;
                self.decryptor = Some(decryptor);
                piece
            }
        };
        self.at = 0;
        Ok(true)
    }
}

impl<R: BufRead> Read for Opener<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.piece.len() {
            if !self.open()? {
                return Ok(0);
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let len = rest.len().min(bytes.len());
        bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        self.at = self.at.saturating_add(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::new(Vec::new(), "a passphrase", [1; 16], [2; 7]).unwrap();
        sealer.write_all(content).unwrap();
        sealer.finish().unwrap()
    }

    fn open(file: &[u8], passphrase: &str) -> Result<Vec<u8>, String> {
        let mut opener = Opener::new(file, passphrase).map_err(|error| format!("{error:?}"))?;
        let mut content = Vec::new();
        opener.read_to_end(&mut content).map_err(|error| error.to_string())?;
        Ok(content)
    }

    #[test]
    fn what_was_sealed_is_opened_and_nothing_else() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let content: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            assert!(open(&sealed(&content), "a passphrase").unwrap() == content, "{len}");
        }
        let file = sealed(&vec![7; PIECE + 100]);
        assert_eq!(open(&file, "another one").unwrap_err(), "Passphrase");
        for at in [0, 8, 20, 36, 43, HEADER, HEADER + PIECE, file.len() - 1] {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert!(open(&damaged, "a passphrase").is_err(), "byte {at}");
        }
        for len in [0, HEADER - 1, HEADER, HEADER + TAG, HEADER + PIECE + TAG, file.len() - 1] {
            assert!(open(&file[..len], "a passphrase").is_err(), "{len} bytes");
        }
        let longer = [file.as_slice(), b"x"].concat();
        assert!(open(&longer, "a passphrase").is_err());
    }

    #[test]
    fn a_header_that_asks_for_too_much_is_refused() {
        let file = sealed(b"content");
        for at in [8, 12, 16] {
            let mut greedy = file.clone();
            greedy[at] = 0xff;
            assert_eq!(open(&greedy, "a passphrase").unwrap_err(), "Foreign");
        }
    }
}
