//! The messages between a sandbox's owner and its first process: JSON, one to a packet of a socket of theirs, with
//! descriptors beside it. A long one is in a file in memory, of which the packet has the descriptor.
//!
//! What is done about a message is not known here.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Exit, Memory, Program};

/// The most descriptors of a packet: three pipes, and the file that a long message is in.
const DESCRIPTORS: usize = 4;
/// The most bytes of a packet: a third of what the kernel lets be sent where nobody has set it otherwise.
const PACKET: usize = 64 << 10;
/// The most bytes of a message: no image's variables are as long, and no list that is of use.
const LONGEST: usize = 16 << 20;
/// What a packet says, which is no JSON, where the message is in the file beside it.
const BESIDE: &[u8] = b"~";

/// What the owner asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The answer has it too.
    pub(super) id: u64,
    pub(super) ask: Ask,
}

/// What can be asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Start a program, with pipes to write to beside it; the owner has chosen the number it is known by.
    Spawn { process: u64, program: Program },
    /// Send a signal to a program, unless it has ended.
    Signal { process: u64, signal: i32 },
    /// End all programs and what they have started.
    KillAll,
    /// A socket that listens on the loopback device, on this port where it is free.
    Listen { port: u16 },
    /// A socket that connects to a port of the loopback device.
    Connect { port: u16 },
    /// The names in a directory.
    List { directory: String },
    /// Whether there is a file of this path.
    HasFile { path: String },
    /// The memory in use.
    Memory,
    /// To look at the memory closely, or seldom, as long as nobody calls.
    Watch { closely: bool },
}

/// What the helper and the first process say.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The sandbox is made.
    Ready,
    /// It cannot be made.
    Failed {
        step: Step,
        what: String,
        errno: i32,
    },
    /// What came of a request.
    Answer { id: u64, answer: Answer },
    /// A program has ended, and this was known of the memory: who asks only then may get no answer in time.
    Ended {
        process: u64,
        exit: Exit,
        memory: Memory,
    },
}

/// Where making a sandbox failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// The namespaces, or the user's number in them.
    Namespaces,
    /// A mount.
    Mount,
    /// Something else.
    Other,
}

/// What came of a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    /// A socket is beside it.
    Socket,
    Names(Vec<String>),
    Is(bool),
    Memory(Memory),
    /// The working directory cannot be entered.
    NoWorkingDir(i32),
    /// The program cannot be executed.
    NotExecuted(i32),
    /// Anything else failed.
    Refused(i32),
}

/// The number of an error, for another process to make the error of.
pub(super) fn errno(error: &io::Error) -> i32 {
    let other = Errno::IO.raw_os_error();
    error.raw_os_error().unwrap_or(other)
}

/// Sends a message with descriptors.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let message = serde_json::to_vec(message)?;
    let long = (message.len() > PACKET).then(|| file_of(&message));
    let long = long.transpose()?;
    let descriptors: Vec<_> = long
        .iter()
        .map(AsFd::as_fd)
        .chain(descriptors.iter().copied())
        .collect();
    let bytes = if long.is_some() { BESIDE } else { &message };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = [IoSlice::new(bytes)];
    net::sendmsg(socket, &bytes, &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn file_of(message: &[u8]) -> io::Result<File> {
    if message.len() > LONGEST {
        return Err(Errno::MSGSIZE.into());
    }
    let mut file = File::from(rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC)?);
    file.write_all(message)?;
    Ok(file)
}

/// Takes the next message and its descriptors; none where the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    if buffer.is_empty() {
        // Of what is never written to the machine has nothing.
        *buffer = vec![0; PACKET];
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [IoSliceMut::new(buffer)];
    let received = net::recvmsg(socket, &mut bytes, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let descriptors = beside.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let mut descriptors: Vec<_> = descriptors.collect();
    let packet = &buffer[..received.bytes];
    let message = if packet == BESIDE && !descriptors.is_empty() {
        let mut file = File::from(descriptors.remove(0));
        // Whoever wrote it is at its end, and so is this.
        file.rewind()?;
        let mut message = Vec::new();
        file.read_to_end(&mut message)?;
        serde_json::from_slice(&message)?
    } else {
        serde_json::from_slice(packet)?
    };
    Ok(Some((message, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

    #[test]
    fn what_could_not_be_received_is_not_sent() {
        let pair = net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK,
            None,
        );
        let (ours, theirs) = pair.unwrap();
        // Some machines let more through.
        sockopt::set_socket_send_buffer_size_force(&ours, 8 << 20)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&ours, 8 << 20))
            .unwrap();
        let error = send(&ours, &"x".repeat(LONGEST), &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::MSGSIZE.raw_os_error()));
        send(&ours, &"x", &[]).unwrap();
        let mut buffer = Vec::new();
        let (received, _) = receive::<String>(&theirs, &mut buffer).unwrap().unwrap();
        assert_eq!(received, "x");
        assert!(buffer.len() <= 256 << 10);
    }
}
