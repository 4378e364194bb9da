//! The client against servers that are silent, slow or lead elsewhere; it knows no registry.

use super::*;

#[test]
fn secrets_do_not_print() {
    let request = Request {
        authorization: Some(Secret::new("Bearer abc")),
        ..Request::new(Method::GET, "https://example.com/".parse().unwrap())
    };
    assert!(!format!("{request:?}").contains("abc"));
    let url = "https://me:pw@example.com:8443/v2/a?X-Amz-Signature=s#f";
    assert_eq!(
        redact(&url.parse().unwrap()),
        "https://example.com:8443/v2/a"
    );
}

/// A server that reads, answers nothing, and ends with the test.
fn deaf_server() -> Url {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut stream, &mut io::sink()));
        }
    });
    format!("http://{address}/").parse().unwrap()
}

#[tokio::test]
async fn an_upload_lasts_as_long_as_it_moves() {
    let client = Client::new(Settings::default());
    let request = Request::new(Method::PUT, deaf_server());
    let patience = Duration::from_millis(300);
    let chunks = futures_util::stream::unfold(0, |count| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (count < 10).then(|| (Ok(Bytes::from_static(b"chunk")), count + 1))
    });
    let begun = std::time::Instant::now();
    let result = client
        .send_watched(&request, chunks.boxed(), patience)
        .await;
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "it was cut while it moved"
    );
    let error = result.unwrap_err().to_string();
    assert!(error.ends_with("nothing moved for 0 seconds"), "{error}");
}

/// Where the bytes come from may wait longer than anybody may for an answer.
#[tokio::test]
async fn an_upload_waits_for_its_bytes() {
    let client = Client::new(Settings::default());
    let request = Request::new(Method::PUT, deaf_server());
    let chunk = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Bytes::from_static(b"chunk"))
    };
    let begun = std::time::Instant::now();
    let chunks = futures_util::stream::once(chunk).boxed();
    let sent = client.send_watched(&request, chunks, Duration::from_millis(200));
    assert!(sent.await.is_err());
    let lasted = begun.elapsed();
    assert!(lasted > Duration::from_secs(1), "{lasted:?}");
}

/// A server that sends this and is silent then.
fn silent_after(answer: &'static str) -> Url {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = io::Read::read(&mut stream, &mut [0; 4096]);
                let _ = io::Write::write_all(&mut stream, answer.as_bytes());
                io::copy(&mut stream, &mut io::sink())
            });
        }
    });
    format!("http://{address}/").parse().unwrap()
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_given_up() {
    let url = silent_after("HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nsome");
    let client = Client::new(Settings::default());
    let request = Request::new(Method::PUT, url);
    let body = futures_util::stream::empty().boxed();
    let mut response = client.send_stream(&request, body).await.unwrap();
    let read = read_within(&mut response, 1000, Duration::from_millis(200));
    let error = tokio::time::timeout(Duration::from_secs(5), read).await;
    let error = error.unwrap().unwrap_err();
    assert!(matches!(error, Error::Exchange { hung_up: false, .. }));
}

#[tokio::test]
async fn data_without_tls_goes_nowhere_else() {
    let answer =
        "HTTP/1.1 307 There\r\nLocation: http://registry.test/x\r\nContent-Length: 0\r\n\r\n";
    let client = Client::new(Settings::default());
    let request = Request::new(Method::GET, silent_after(answer));
    let error = client.send_once(&request).await.unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
    let at = |text: &str| text.parse().unwrap();
    assert!(client.may_go_on(&at("http://a.test:1/"), &at("http://a.test/x")));
    assert!(client.may_go_on(&at("http://a.test/"), &at("http://localhost:1/")));
    assert!(client.may_go_on(&at("http://a.test/"), &at("https://b.test/")));
    assert!(!client.may_go_on(&at("https://a.test/"), &at("http://a.test/")));
}

#[test]
fn only_loopback_and_named_hosts_are_plain() {
    let client = Client::new(Settings {
        plain_http: ["registry.test:5000".to_owned()].into(),
        ..Settings::default()
    });
    for host in [
        "localhost:5000",
        "127.0.0.1",
        "127.8.0.1:1",
        "[::1]:5000",
        "registry.test:5000",
    ] {
        assert!(client.is_plain(host), "{host}");
    }
    for host in [
        "registry.test",
        "example.com",
        "10.0.0.1:5000",
        "localhost.example.com",
    ] {
        assert!(!client.is_plain(host), "{host}");
    }
}

/// Who has got a large body may take his time with it.
#[tokio::test]
async fn the_answer_to_a_large_body_is_waited_for_longer() {
    let client = Client::new(Settings::default());
    let lasted = async |chunks: usize, has_length: bool| {
        let chunk = Bytes::from(vec![0; 1 << 20]);
        let mut request = Request::new(Method::PUT, deaf_server());
        if has_length {
            let length = HeaderValue::from(chunks * chunk.len());
            request.headers.insert(CONTENT_LENGTH, length);
        }
        let body = futures_util::stream::iter((0..chunks).map(move |_| Ok(chunk.clone()))).boxed();
        let begun = std::time::Instant::now();
        let sent = client.send_watched(&request, body, Duration::from_millis(300));
        assert!(sent.await.is_err());
        begun.elapsed()
    };
    for has_length in [true, false] {
        let large = lasted(128, has_length).await;
        assert!(large > Duration::from_secs(2), "{large:?}");
    }
    let small = lasted(1, true).await;
    assert!(small < Duration::from_secs(2), "{small:?}");
}
