//! A short text in shared memory.

crate::zeroable! {
    /// A text of at most 200 bytes.
    #[derive(Clone, Copy)]
    pub struct ShortText {
        length: u8,
        bytes: [u8; 200],
    }
}

impl ShortText {
    /// Stores the text. Truncates the text if it is too long.
    pub fn set(&mut self, text: &str) {
        let mut length = text.len().min(self.bytes.len());
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        self.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length = length as u8;
    }

    pub fn text(&self) -> Option<String> {
        let bytes = self.bytes.get(..usize::from(self.length))?;
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}
