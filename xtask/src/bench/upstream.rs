//! The smallest MCP server over streamable HTTP that clients of the handshake era accept: one tool, `echo`, one thread.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::load::{content_length, find};

const MAX_REQUEST: usize = 1 << 20;

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    arguments: Arguments<'a>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    text: &'a RawValue,
}

/// Serves until the process is killed.
///
/// # Errors
/// If the address cannot be bound.
pub fn serve(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            // What goes wrong on one connection ends that connection.
            tokio::spawn(async move { connection(stream).await });
        }
    })
}

async fn connection(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut answer = Vec::with_capacity(4 * 1024);
    loop {
        let Some((start, end)) = read_request(&mut stream, &mut buffer).await? else { return Ok(()) };
        answer.clear();
        if buffer.starts_with(b"POST ") {
            respond(&buffer[start..end], &mut answer)?;
        } else {
            answer.extend_from_slice(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n");
        }
        stream.write_all(&answer).await?;
        buffer.drain(..end);
    }
}

/// Where the body is; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<(usize, usize)>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let length = if buffer.starts_with(b"POST ") { content_length(&buffer[..end])? } else { 0 };
            ensure!(length < MAX_REQUEST, "a request of {length} bytes");
            if buffer.len() >= end + 4 + length {
                return Ok(Some((end + 4, end + 4 + length)));
            }
        }
        ensure!(buffer.len() < MAX_REQUEST, "a head of {} bytes", buffer.len());
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn respond(body: &[u8], answer: &mut Vec<u8>) -> Result<()> {
    let message: Message<'_> = serde_json::from_slice(body)?;
    let Some(id) = message.id else {
        answer.extend_from_slice(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
        return Ok(());
    };
    let result = match message.method {
        "tools/call" => {
            let call: Call<'_> = serde_json::from_str(message.params.context("no params")?.get())?;
            format!("\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":{}}}]}}", call.arguments.text.get())
        }
        "initialize" => member(
            "result",
            &json!({
                "protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "bench", "version": "1"},
            }),
        ),
        "tools/list" => member("result", &json!({"tools": [definition()]})),
        "ping" => member("result", &json!({})),
        _ => member("error", &json!({"code": -32601, "message": "no such method"})),
    };
    let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},{result}}}", id.get());
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    answer.extend_from_slice(head.as_bytes());
    answer.extend_from_slice(body.as_bytes());
    Ok(())
}

fn member(name: &str, value: &Value) -> String {
    format!("\"{name}\":{value}")
}

fn definition() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 10_000}},
        "required": ["text"],
        "additionalProperties": false,
    });
    json!({"name": "echo", "description": "Says what it is told", "inputSchema": schema})
}
