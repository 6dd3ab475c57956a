//! A client for Redis, as much of one as looking at it takes.
//!
//! It shares nothing with the gateway's client: a drill must not agree with the gateway's mistakes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// What went wrong, for a person to read.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Longer than any command that is asked here takes, `WAIT` included.
const PATIENCE: Duration = Duration::from_secs(3);

/// A user's name and password.
pub(crate) type Login = (String, String);

/// What Redis answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Many(Vec<Self>),
    Nil,
}

/// A connection.
pub(crate) struct Conn(BufReader<TcpStream>);

/// Asks once, on a connection of its own.
///
/// # Errors
/// When there is no answer in time, or it is an error.
pub(crate) async fn ask(
    address: SocketAddr,
    login: Option<&Login>,
    words: &[&str],
) -> Result<Value, Error> {
    let asked = async { Conn::open(address, login).await?.ask(words).await };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{address} does not answer {words:?}").into()),
    }
}

// === impl Value ===

impl Value {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
        }
    }

    pub(crate) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn many(&self) -> &[Self] {
        match self {
            Self::Many(values) => values,
            _ => &[],
        }
    }

    /// The value of `name` in an answer of `INFO`: lines of `name:value`.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }
}

// === impl Conn ===

impl Conn {
    pub(crate) async fn open(address: SocketAddr, login: Option<&Login>) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        drop(stream.set_nodelay(true));
        let mut conn = Self(BufReader::new(stream));
        if let Some((user, password)) = login {
            conn.ask(&["AUTH", user, password]).await?;
        }
        Ok(conn)
    }

    /// # Errors
    /// What Redis says when it refuses, and when the connection ends.
    pub(crate) async fn ask(&mut self, words: &[&str]) -> Result<Value, Error> {
        self.send(words).await?;
        self.answer().await
    }

    pub(crate) async fn send(&mut self, words: &[&str]) -> Result<(), Error> {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        Ok(self.0.get_mut().write_all(text.as_bytes()).await?)
    }

    /// The next answer, or the next line of `MONITOR`.
    pub(crate) async fn answer(&mut self) -> Result<Value, Error> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).ok_or("an empty answer")?;
        match kind {
            "+" => Ok(Value::Text(rest.to_owned())),
            "-" => Err(rest.to_owned().into()),
            ":" => Ok(Value::Number(rest.parse()?)),
            "$" if rest == "-1" => Ok(Value::Nil),
            "*" if rest == "-1" => Ok(Value::Nil),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut bytes).await?;
                bytes.truncate(bytes.len() - 2);
                Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            "*" => {
                let mut values = Vec::new();
                for _ in 0..rest.parse::<usize>()? {
                    // An error inside is one of the values.
                    values.push(match Box::pin(self.answer()).await {
                        Ok(value) => value,
                        Err(error) => Value::Text(error.to_string()),
                    });
                }
                Ok(Value::Many(values))
            }
            _ => Err(format!("not an answer of Redis: {line}").into()),
        }
    }

    async fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err("the connection ended".into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}
