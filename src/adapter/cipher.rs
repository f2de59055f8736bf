//! Attachments that come encrypted (Weixin: AES-128-ECB, WeCom: AES-256-CBC): decrypted while they are streamed to disk.

use aes::cipher::{BlockCipherDecrypt, KeyInit};
use aes::{Aes128, Aes256, Block};
use std::io::{self, ErrorKind, Read};

const BLOCK: usize = 16;

enum Mode {
    Ecb(Aes128),
    /// With the block before, which is xored in.
    Cbc(Aes256, [u8; BLOCK]),
}

/// Decrypts what `inner` reads and takes the padding (PKCS#7) off its end. What was cut off or is padded wrongly ends with
/// [`ErrorKind::InvalidData`].
pub struct Decrypted<R> {
    inner: R,
    mode: Mode,
    /// The padding is 1 to this many bytes long.
    padding_max: usize,
    /// What has been read of the next block.
    block: [u8; BLOCK],
    filled: usize,
    /// Plain text that is not handed out; its last bytes may be padding.
    plain: Vec<u8>,
    ended: bool,
}

impl<R: Read> Decrypted<R> {
    /// AES-128-ECB, padded to 16 bytes.
    pub fn ecb(inner: R, key: &[u8; 16]) -> Self {
        Self::new(inner, Mode::Ecb(Aes128::new(&(*key).into())), BLOCK)
    }

    /// AES-256-CBC, padded to 32 bytes; the vector is the first half of the key, as WeCom has it.
    pub fn cbc(inner: R, key: &[u8; 32]) -> Self {
        let mut vector = [0; BLOCK];
        vector.copy_from_slice(&key[..BLOCK]);
        Self::new(inner, Mode::Cbc(Aes256::new(&(*key).into()), vector), 2 * BLOCK)
    }

    fn new(inner: R, mode: Mode, padding_max: usize) -> Self {
        Self { inner, mode, padding_max, block: [0; BLOCK], filled: 0, plain: Vec::new(), ended: false }
    }

    fn decrypt_block(&mut self) {
        let mut block = Block::from(self.block);
        match &mut self.mode {
            Mode::Ecb(cipher) => cipher.decrypt_block(&mut block),
            Mode::Cbc(cipher, before) => {
                cipher.decrypt_block(&mut block);
                block.iter_mut().zip(before.iter()).for_each(|(byte, other)| *byte ^= other);
                *before = self.block;
            }
        }
        self.plain.extend_from_slice(&block);
        self.filled = 0;
    }

    /// Reads until something can be handed out, or the end.
    fn fill(&mut self, want: usize) -> io::Result<()> {
        let mut chunk = [0; 4096];
        while !self.ended && self.plain.len() <= self.padding_max {
            let room = chunk.len().min(want.max(BLOCK));
            let count = self.inner.read(&mut chunk[..room])?;
            if count == 0 {
                self.ended = true;
                return self.unpad();
            }
            for byte in &chunk[..count] {
                self.block[self.filled] = *byte;
                self.filled += 1;
                if self.filled == BLOCK {
                    self.decrypt_block();
                }
            }
        }
        Ok(())
    }

    fn unpad(&mut self) -> io::Result<()> {
        let wrong = || io::Error::new(ErrorKind::InvalidData, "it cannot be decrypted: cut off, or another key");
        let length = usize::from(*self.plain.last().ok_or_else(wrong)?);
        let padding = self.plain.len().checked_sub(length).map(|start| &self.plain[start..]).ok_or_else(wrong)?;
        let fine = self.filled == 0 && (1..=self.padding_max).contains(&length) && padding.iter().all(|byte| usize::from(*byte) == length);
        if !fine {
            self.plain.clear();
            return Err(wrong());
        }
        self.plain.truncate(self.plain.len() - length);
        Ok(())
    }
}

impl<R: Read> Read for Decrypted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.fill(buffer.len())?;
        let ready = if self.ended { self.plain.len() } else { self.plain.len() - self.padding_max };
        let count = ready.min(buffer.len());
        buffer[..count].copy_from_slice(&self.plain[..count]);
        self.plain.drain(..count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes::cipher::BlockCipherEncrypt;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    fn padded(plain: &[u8], to: usize) -> Vec<u8> {
        let length = to - plain.len() % to;
        let mut padded = plain.to_vec();
        padded.resize(plain.len() + length, u8::try_from(length).expect("a short padding"));
        padded
    }

    fn encrypt_ecb(plain: &[u8], key: [u8; 16]) -> Vec<u8> {
        let cipher = Aes128::new(&key.into());
        let mut out = Vec::new();
        for chunk in padded(plain, 16).chunks(16) {
            let mut block = Block::try_from(chunk).expect("a block");
            cipher.encrypt_block(&mut block);
            out.extend_from_slice(&block);
        }
        out
    }

    fn encrypt_cbc(plain: &[u8], key: [u8; 32]) -> Vec<u8> {
        let cipher = Aes256::new(&key.into());
        let mut before: [u8; 16] = key[..16].try_into().expect("half a key");
        let mut out = Vec::new();
        for chunk in padded(plain, 32).chunks(16) {
            let mut block = Block::try_from(chunk).expect("a block");
            block.iter_mut().zip(before).for_each(|(byte, other)| *byte ^= other);
            cipher.encrypt_block(&mut block);
            before.copy_from_slice(&block);
            out.extend_from_slice(&block);
        }
        out
    }

    /// Hands out one to three bytes at a time.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = (1 + self.0.len() % 3).min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn read(mut reader: impl Read) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        reader.read_to_end(&mut plain).map(|_| plain)
    }

    /// FIPS 197, appendix C.1; the second block is the padding (NIST's key and block, openssl's result).
    #[test]
    fn a_known_answer() {
        let key: [u8; 16] = hex("000102030405060708090a0b0c0d0e0f").try_into().expect("a key");
        let cipher = hex("69c4e0d86a7b0430d8cdb78070b4c55a954f64f2e4e86e9eee82d20216684899");
        assert_eq!(read(Decrypted::ecb(&cipher[..], &key)).expect("decrypted"), hex("00112233445566778899aabbccddeeff"));
    }

    #[test]
    fn what_is_cut_off_or_has_another_key_is_an_error() {
        let (key, other) = ([7; 16], [8; 16]);
        let cipher = encrypt_ecb(b"seventeen bytes..", key);
        for wrong in [&cipher[..16], &cipher[..31], &cipher[..0]] {
            assert_eq!(read(Decrypted::ecb(wrong, &key)).expect_err("cut off").kind(), ErrorKind::InvalidData);
        }
        assert_eq!(read(Decrypted::ecb(&cipher[..], &other)).expect_err("another key").kind(), ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn any_text_comes_back_however_it_is_cut(plain in proptest::collection::vec(any::<u8>(), 0..9000), key in any::<[u8; 32]>()) {
            let short: [u8; 16] = key[..16].try_into().expect("half a key");
            let (ecb, cbc) = (encrypt_ecb(&plain, short), encrypt_cbc(&plain, key));
            prop_assert_eq!(&read(Decrypted::ecb(&ecb[..], &short)).expect("decrypted"), &plain);
            prop_assert_eq!(&read(Decrypted::ecb(Dribble(&ecb), &short)).expect("decrypted"), &plain);
            prop_assert_eq!(&read(Decrypted::cbc(&cbc[..], &key)).expect("decrypted"), &plain);
            prop_assert_eq!(&read(Decrypted::cbc(Dribble(&cbc), &key)).expect("decrypted"), &plain);
        }
    }
}
