//! Builds tars byte by byte, also ones that no program would write.

/// One header field by field. The checksum is made at the end.
#[derive(Debug, Clone)]
pub struct Head {
    /// Up to 100 bytes; what is longer is cut off, for that takes a pax record.
    pub name: Vec<u8>,
    /// The type flag.
    pub kind: u8,
    /// As `name`.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// Seconds since the epoch.
    pub mtime: u64,
    /// Major and minor number.
    pub device: (u32, u32),
    /// The magic of GNU tar instead of POSIX'.
    pub gnu: bool,
}

impl Head {
    /// A header for `name` with type flag `kind`.
    pub fn new(name: impl AsRef<[u8]>, kind: u8) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_700_000_000,
            device: (0, 0),
            gnu: false,
        }
    }

    /// The header block.
    #[must_use]
    pub fn bytes(&self) -> [u8; 512] {
        let mut block = [0; 512];
        put(&mut block, 0, self.name.get(..100).unwrap_or(&self.name));
        put(&mut block, 100, format!("{:07o}", self.mode).as_bytes());
        put(&mut block, 108, format!("{:07o}", self.uid).as_bytes());
        put(&mut block, 116, format!("{:07o}", self.gid).as_bytes());
        put(&mut block, 124, format!("{:011o}", self.size).as_bytes());
        put(&mut block, 136, format!("{:011o}", self.mtime).as_bytes());
        put(&mut block, 156, &[self.kind]);
        put(&mut block, 157, self.link.get(..100).unwrap_or(&self.link));
        put(
            &mut block,
            257,
            if self.gnu {
                b"ustar  \0"
            } else {
                b"ustar\x0000"
            },
        );
        put(&mut block, 329, format!("{:07o}", self.device.0).as_bytes());
        put(&mut block, 337, format!("{:07o}", self.device.1).as_bytes());
        seal(&mut block);
        block
    }
}

/// Writes `bytes` at `at` of a header.
pub fn put(block: &mut [u8; 512], at: usize, bytes: &[u8]) {
    for (to, from) in block.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// Writes the checksum of a header.
pub fn seal(block: &mut [u8; 512]) {
    put(block, 148, b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

/// One pax record with its own length in front.
#[must_use]
pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// An archive in the making.
///
/// ```
/// use longshore_snapshotter::contract::Tarball;
/// let tar = Tarball::new().dir("etc/", 0o755).file("etc/motd", b"hello\n").end();
/// assert_eq!(tar.len(), 5 * 512);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tarball(Vec<u8>);

impl Tarball {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Content, filled up to whole blocks.
    #[must_use]
    pub fn content(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A header.
    #[must_use]
    pub fn head(self, head: &Head) -> Self {
        self.raw(&head.bytes())
    }

    /// pax records for the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.pax_of(b'x', records)
    }

    /// pax records under any type flag.
    #[must_use]
    pub fn pax_of(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let records = records
            .iter()
            .flat_map(|(key, value)| pax_record(key, value));
        self.extension(kind, &records.collect::<Vec<u8>>())
    }

    /// An extension header with this content.
    #[must_use]
    pub fn extension(self, kind: u8, content: &[u8]) -> Self {
        let head = Head {
            size: content.len() as u64,
            ..Head::new("extension", kind)
        };
        self.head(&head).content(content)
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        self.head(&Head {
            size: content.len() as u64,
            ..Head::new(name, b'0')
        })
        .content(content)
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, name: impl AsRef<[u8]>, mode: u32) -> Self {
        self.head(&Head {
            mode,
            ..Head::new(name, b'5')
        })
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let link = target.as_ref().to_vec();
        self.head(&Head {
            link,
            mode: 0o777,
            ..Head::new(name, b'2')
        })
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.head(&Head {
            link: target.as_ref().to_vec(),
            ..Head::new(name, b'1')
        })
    }

    /// A device or fifo.
    #[must_use]
    pub fn node(self, name: impl AsRef<[u8]>, kind: u8, device: (u32, u32)) -> Self {
        self.head(&Head {
            device,
            ..Head::new(name, kind)
        })
    }

    /// The archive with the two blocks of zeros that end it.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}
