//! HTTP/1.1 as it goes over a connection: heads as they are, bodies as streams that may be of any size.
//!
//! Knows nothing of registries; `ecr` answers by it and `chaos` passes it on. Every read and every write
//! has a time-out, so that nobody waits for ever for who has gone.

use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// How long one read or write may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The first line of a request or an answer, and its headers as they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// A header's value, whatever the letters' case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Replaces a header, or adds it.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// A word of the first line: of a request method, target and version, of an answer version and status.
    pub(crate) fn word(&self, number: usize) -> &str {
        let mut words = self.first.split_whitespace();
        words.nth(number).unwrap_or_default()
    }

    /// The length that the body has by its header.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header("Content-Length")?.parse().ok()
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("Transfer-Encoding").is_some()
    }

    fn says_close(&self) -> bool {
        let connection = self.header("Connection").unwrap_or_default();
        connection.eq_ignore_ascii_case("close")
    }
}

/// One side of a connection that is read from and written to.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    pub(crate) writer: TcpStream,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Connection> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let reader = BufReader::with_capacity(64 << 10, stream.try_clone()?);
        let writer = stream;
        Ok(Connection { reader, writer })
    }

    pub(crate) fn to(address: SocketAddr) -> io::Result<Connection> {
        Connection::new(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    /// The next head, nothing where the other side has ended.
    pub(crate) fn head(&mut self) -> io::Result<Option<Head>> {
        let mut head = Head::default();
        if self.reader.read_line(&mut head.first)? == 0 {
            return Ok(None);
        }
        let mut line = String::new();
        while self.reader.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(':') {
                head.headers
                    .push((name.to_owned(), value.trim().to_owned()));
            }
            line.clear();
        }
        Ok(Some(head))
    }

    pub(crate) fn send_head(&mut self, head: &Head) -> io::Result<()> {
        let mut text = format!("{}\r\n", head.first.trim_end());
        for (name, value) in &head.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        self.writer.write_all(format!("{text}\r\n").as_bytes())
    }

    /// All that still comes, as it is.
    pub(crate) fn rest(&mut self) -> impl Read + '_ {
        &mut self.reader
    }

    /// The body of a request with this head.
    pub(crate) fn body(&mut self, head: &Head) -> Body<'_> {
        let left = if head.is_chunked() {
            Left::Chunk(0)
        } else {
            Left::Bytes(head.length().unwrap_or(0))
        };
        let reader = &mut self.reader;
        Body { reader, left }
    }

    /// Ends both directions at once, as a router that forgets does.
    pub(crate) fn cut(&self) {
        // Who has gone already need not be told.
        let _ = self.writer.shutdown(std::net::Shutdown::Both);
    }
}

enum Left {
    Bytes(u64),
    /// Bytes left of the chunk that is read.
    Chunk(u64),
    Nothing,
}

/// A body without its framing.
pub(crate) struct Body<'connection> {
    reader: &'connection mut BufReader<TcpStream>,
    left: Left,
}

impl Body<'_> {
    fn next_chunk(&mut self) -> io::Result<u64> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            line.clear();
            self.reader.read_line(&mut line)?;
        }
        let size = line.split(';').next().unwrap_or_default().trim();
        let broken = |_| io::Error::new(io::ErrorKind::UnexpectedEof, "no chunk");
        let size = u64::from_str_radix(size, 16).map_err(broken)?;
        if size == 0 {
            // What ends the trailers.
            self.reader.read_line(&mut line)?;
        }
        Ok(size)
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = match self.left {
            Left::Nothing => return Ok(0),
            Left::Chunk(0) => self.next_chunk()?,
            Left::Bytes(left) | Left::Chunk(left) => left,
        };
        if left == 0 {
            self.left = Left::Nothing;
            return Ok(0);
        }
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.reader.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = left - count as u64;
        self.left = match self.left {
            Left::Bytes(_) => Left::Bytes(left),
            Left::Chunk(_) | Left::Nothing => Left::Chunk(left),
        };
        Ok(count)
    }
}

/// A listener on loopback with a thread for each connection, until it is dropped.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Listener {
    /// Listens on an address of loopback, such as 127.0.0.2. `serve` answers the next request, and tells whether the connection may have another.
    pub(crate) fn start(
        host: &str,
        serve: impl Fn(&mut Connection, Head) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Listener {
        let listener = TcpListener::bind((host, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (Arc::clone(&stop), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    // A client that goes away is no concern of a server's.
                    let _ = serve_all(stream, &*serve);
                });
            }
        });
        Listener { address, stop }
    }
}

fn serve_all(
    stream: TcpStream,
    serve: &dyn Fn(&mut Connection, Head) -> io::Result<bool>,
) -> io::Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some(head) = connection.head()? {
        let is_last = head.says_close();
        match serve(&mut connection, head) {
            Ok(true) if !is_last => {}
            _ => break,
        }
    }
    connection.cut();
    Ok(())
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One more connection wakes the thread that accepts them.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}
