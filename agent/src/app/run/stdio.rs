//! Our own standard input and output, without threads where the system allows it.
//!
//! What reads and writes standard streams for tokio are threads that may block: several wake-ups for
//! each message. What a client gives us is nearly always a pipe or a socket, and those can be waited
//! for with everything else. Anything else, and other systems than Linux, keep the threads.

use tokio::io::{AsyncRead, AsyncWrite};

/// What we read from.
pub(super) type Input = Box<dyn AsyncRead + Send + Unpin>;
/// What we write to.
pub(super) type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Our standard streams. Whoever started us gets back what was changed of them with the drop.
pub(super) struct Streams {
    pub(super) input: Input,
    pub(super) output: Output,
    #[cfg(target_os = "linux")]
    _restored: linux::Restored,
}

/// Takes our standard streams.
#[cfg(target_os = "linux")]
pub(super) fn streams() -> Streams {
    use std::os::fd::AsFd as _;

    let mut restored = linux::Restored::default();
    let input = linux::input(std::io::stdin().as_fd(), &mut restored);
    let output = linux::output(std::io::stdout().as_fd(), &mut restored);
    Streams {
        input: input.unwrap_or_else(|| Box::new(tokio::io::stdin())),
        output: output.unwrap_or_else(|| Box::new(tokio::io::stdout())),
        _restored: restored,
    }
}

/// Takes our standard streams.
#[cfg(not(target_os = "linux"))]
pub(super) fn streams() -> Streams {
    Streams { input: Box::new(tokio::io::stdin()), output: Box::new(tokio::io::stdout()) }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

    use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
    use tokio::net::UnixStream;
    use tokio::net::unix::pipe;

    use super::{Input, Output};

    /// What a file was set to before. It belongs to whoever started us as well.
    #[derive(Debug, Default)]
    pub(in crate::app::run) struct Restored(Vec<(OwnedFd, OFlags)>);

    impl Drop for Restored {
        fn drop(&mut self) {
            // The last one was set first, where two streams are one file.
            for (file, flags) in self.0.drain(..).rev() {
                let _ = fcntl_setfl(&file, flags);
            }
        }
    }

    /// Takes a stream to read from; `None` when it is neither a pipe nor a socket.
    pub(super) fn input(stream: BorrowedFd<'_>, restored: &mut Restored) -> Option<Input> {
        match kind(stream)? {
            FileType::Fifo => {
                let pipe = pipe::OpenOptions::new().open_receiver(again(stream)).ok()?;
                Some(Box::new(pipe))
            }
            FileType::Socket => Some(Box::new(socket(stream, restored)?)),
            _ => None,
        }
    }

    /// Takes a stream to write to; `None` when it is neither a pipe nor a socket.
    pub(super) fn output(stream: BorrowedFd<'_>, restored: &mut Restored) -> Option<Output> {
        match kind(stream)? {
            FileType::Fifo => {
                let pipe = pipe::OpenOptions::new().open_sender(again(stream)).ok()?;
                Some(Box::new(pipe))
            }
            FileType::Socket => Some(Box::new(socket(stream, restored)?)),
            _ => None,
        }
    }

    fn kind(stream: BorrowedFd<'_>) -> Option<FileType> {
        fstat(stream).ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
    }

    /// Names a pipe so that it can be opened once more: that it does not block is then ours alone.
    fn again(stream: BorrowedFd<'_>) -> String {
        format!("/proc/self/fd/{}", stream.as_raw_fd())
    }

    /// Takes a socket, which cannot be opened once more.
    fn socket(stream: BorrowedFd<'_>, restored: &mut Restored) -> Option<UnixStream> {
        let before = fcntl_getfl(stream).ok()?;
        if !before.contains(OFlags::NONBLOCK) {
            fcntl_setfl(stream, before | OFlags::NONBLOCK).ok()?;
            restored.0.push((stream.try_clone_to_owned().ok()?, before));
        }
        UnixStream::from_std(stream.try_clone_to_owned().ok()?.into()).ok()
    }

    #[cfg(test)]
    mod tests {
        use std::io::{Read as _, Write as _};
        use std::os::fd::AsFd as _;

        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        use super::*;

        fn blocks(stream: BorrowedFd<'_>) -> bool {
            !fcntl_getfl(stream).unwrap().contains(OFlags::NONBLOCK)
        }

        #[tokio::test]
        async fn pipes_are_read_and_written_and_stay_as_they_were_for_others() {
            let mut restored = Restored::default();
            let (reader, mut writer) = std::io::pipe().unwrap();
            let mut ours = input(reader.as_fd(), &mut restored).unwrap();
            writer.write_all(b"in").unwrap();
            drop(writer);
            let mut text = String::new();
            ours.read_to_string(&mut text).await.unwrap();
            assert_eq!((text.as_str(), blocks(reader.as_fd())), ("in", true));

            let (mut reader, writer) = std::io::pipe().unwrap();
            let mut ours = output(writer.as_fd(), &mut restored).unwrap();
            ours.write_all(b"out").await.unwrap();
            assert!(blocks(writer.as_fd()));
            drop((ours, writer));
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), restored.0.len()), ("out", 0));
        }

        #[tokio::test]
        async fn a_socket_serves_both_ways_and_is_given_back_as_it_was() {
            let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            let mut restored = Restored::default();
            let mut from = input(ours.as_fd(), &mut restored).unwrap();
            let mut to = output(ours.as_fd(), &mut restored).unwrap();
            theirs.write_all(b"in").unwrap();
            let mut bytes = [0; 2];
            from.read_exact(&mut bytes).await.unwrap();
            to.write_all(b"out").await.unwrap();
            let mut said = [0; 3];
            theirs.read_exact(&mut said).unwrap();
            assert_eq!((&bytes, &said), (b"in", b"out"));
            assert!(!blocks(ours.as_fd()));
            drop((from, to, restored));
            assert!(blocks(ours.as_fd()));
        }

        #[tokio::test]
        async fn what_can_only_be_waited_for_by_a_thread_is_left_to_one() {
            let file = tempfile::tempfile().unwrap();
            assert!(input(file.as_fd(), &mut Restored::default()).is_none());
            assert!(output(file.as_fd(), &mut Restored::default()).is_none());
        }
    }
}
