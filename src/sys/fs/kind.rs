//! What kind of file system something is on, by the number that `statfs(2)` tells.

/// A file system, as far as it matters to what is kept on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystemKind {
    /// Nothing speaks against it: a disk of this machine, or something unknown.
    Local,
    /// It is shared with other machines, or served by a program, and goes by this name.
    Remote(&'static str),
}

/// `linux/magic.h`, and for what is not part of Linux the `stat` of GNU coreutils.
const REMOTE: [(u32, &str); 23] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x564C, "NCP"),
    (0x7461_636F, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0xAAD7_AAEA, "PanFS"),
    (0xBEEF_DEAD, "StorNext"),
    (0x6163_6673, "ACFS"),
    (0x0131_11A8, "IBRIX"),
    (0x786F_4256, "VirtualBox shared folders"),
    (0xBACB_ACBC, "VMware shared folders"),
    // sshfs, s3fs, GlusterFS, virtiofs: which of them, the number does not tell.
    (0x6573_5546, "FUSE"),
];

impl FileSystemKind {
    /// The kind with a number.
    pub(super) fn of(number: u32) -> Self {
        let found = REMOTE.iter().find(|(known, _)| *known == number);
        found.map_or(Self::Local, |(_, name)| Self::Remote(name))
    }
}
