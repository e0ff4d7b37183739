//! Mail to the operator's server, over a connection that `egress` opens: one mail, one connection, one deadline.
//!
//! What is certain is kept apart from what is not. Until the dot that ends a mail has begun to leave, nothing was sent, whatever
//! happens; a refusal in a reply is one as well (RFC 5321, section 4.2.5); no answer after the dot means that nobody knows.
//! What the server says is not passed on, but for its codes: it may repeat what it was told, a password included.
//!
//! Our own, because a client library brings a TLS of its own: it could neither run on a connection of `egress` nor see what was
//! slipped in before TLS began, and stops at the first recipient that is refused.

use std::time::{Duration, Instant};

use countersign_egress::{Channel, Egress, EgressError, Endpoint, Purpose};
use countersign_keys::SecretText;
use countersign_trust::notify::smtp::{self, Offers, Refusal, Replies, Reply, ReplyError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zeroize::Zeroizing;

use crate::config::{MailLogin, MailSettings, MailTls};
use crate::keys::read_secret;

/// How long leave is taken of the server, once the mail's fate is known.
const FAREWELL: Duration = Duration::from_millis(500);

/// The operator's mail server, and who the node is there.
pub(crate) struct Mailer {
    endpoint: Endpoint,
    tls: MailTls,
    /// What the node calls itself.
    hello: String,
    from: String,
    login: Option<Login>,
}

struct Login {
    username: String,
    password: SecretText,
}

/// What became of a mail for one recipient; without a refusal, the server has taken it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipient {
    pub address: String,
    pub refused: Option<Refusal>,
}

/// Why a mail was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MailError {
    /// Nothing was sent, for certain.
    #[error("{0}")]
    Undone(String),
    /// It may have been sent.
    #[error("{0}")]
    Unknown(String),
}

/// What goes wrong in between.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Connection(#[from] EgressError),
    #[error("the connection to the mail server broke: {0}")]
    Broken(std::io::ErrorKind),
    #[error("the mail server closed the connection")]
    Closed,
    #[error("the mail server does not speak SMTP: {0}")]
    Reply(#[from] ReplyError),
    #[error("the mail server spoke out of turn")]
    OutOfTurn,
    #[error("the mail server does not offer TLS (STARTTLS), without which nothing is sent to it")]
    NoTls,
    #[error("the mail server takes no password in a way that is spoken here (AUTH PLAIN or LOGIN)")]
    NoLogin,
    #[error("the mail server takes no mail of more than {0} bytes")]
    TooLong(u64),
    #[error("the mail server refused {0}: {1}")]
    Refused(&'static str, Refusal),
    #[error("the mail server refused every recipient: {0}")]
    Nobody(String),
    #[error("the mail cannot be sent as it is")]
    Unsendable,
}

impl Trouble {
    /// Whether the server has said no, and goes on listening.
    fn is_an_answer(&self) -> bool {
        match self {
            Self::Refused(..) | Self::Nobody(_) | Self::TooLong(_) => true,
            Self::Connection(_) | Self::Broken(_) | Self::Closed | Self::Reply(_) => false,
            Self::OutOfTurn | Self::NoTls | Self::NoLogin | Self::Unsendable => false,
        }
    }
}

/// How far it went.
#[derive(Default)]
struct Attempt {
    session: Option<Session>,
    /// Whether the server may have got the whole mail.
    ended: bool,
}

impl Mailer {
    /// # Errors
    /// In words, if the password cannot be read or there can be no such server.
    pub fn open(settings: &MailSettings, hello: &str, egress: &Egress) -> Result<Self, String> {
        let endpoint = egress.endpoint(Purpose::Mail, (&settings.host, settings.port), &settings.networks);
        let login = match &settings.login {
            None => None,
            Some(MailLogin { username, password_file }) => {
                Some(Login { username: username.clone(), password: read_secret(password_file)? })
            }
        };
        Ok(Self {
            endpoint: endpoint.map_err(|e| e.to_string())?,
            tls: settings.tls,
            hello: hello.to_owned(),
            from: settings.from.clone(),
            login,
        })
    }

    /// Who sends.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Hands a mail to the server. It is taken if one recipient at least was accepted; the others are in the answer.
    ///
    /// # Errors
    /// [`MailError`].
    pub async fn send(&self, to: &[String], mail: &str, deadline: Instant) -> Result<Vec<Recipient>, MailError> {
        let mut attempt = Attempt::default();
        let exchange = self.exchange(to, mail, &mut attempt, deadline);
        let outcome = tokio::time::timeout_at(deadline.into(), exchange).await;
        let Attempt { session, ended } = attempt;
        let trouble = match outcome {
            Ok(Ok(recipients)) => {
                leave(session).await;
                return Ok(recipients);
            }
            Ok(Err(trouble)) => Some(trouble),
            Err(_) => None,
        };
        let was_told = trouble.as_ref().is_some_and(Trouble::is_an_answer);
        if was_told {
            leave(session).await;
        }
        let why = trouble.map_or_else(|| "the mail server did not answer in time".to_owned(), |t| t.to_string());
        // Whoever says no after the dot has not taken it; silence says nothing.
        Err(if ended && !was_told { MailError::Unknown(why) } else { MailError::Undone(why) })
    }

    async fn exchange(
        &self,
        to: &[String],
        mail: &str,
        attempt: &mut Attempt,
        deadline: Instant,
    ) -> Result<Vec<Recipient>, Trouble> {
        let mail = smtp::stuffed(mail).ok_or(Trouble::Unsendable)?;
        let (session, offers) = self.session(deadline).await?;
        let session = attempt.session.insert(session);
        if let Some(most) = offers.most_bytes.filter(|most| mail.len() as u64 > *most) {
            return Err(Trouble::TooLong(most));
        }
        session.ask(&format!("MAIL FROM:<{}>", self.from), "the sender").await?;
        let recipients = session.recipients(to).await?;
        if recipients.iter().all(|recipient| recipient.refused.is_some()) {
            return Err(Trouble::Nobody(listed(&recipients)));
        }
        session.expect("DATA", 354, "the mail").await?;
        session.channel.write_all(mail.as_bytes()).await.map_err(broken)?;
        session.channel.flush().await.map_err(broken)?;
        session.is_asked()?;
        attempt.ended = true;
        session.ask(".", "the mail").await?;
        Ok(recipients)
    }

    /// A session in which mail can be sent: secured as configured, and logged in.
    async fn session(&self, deadline: Instant) -> Result<(Session, Offers), Trouble> {
        let mut channel = self.endpoint.open(deadline).await?;
        if self.tls == MailTls::Implicit {
            channel = channel.secured(deadline).await?;
        }
        let mut session = Session { channel, replies: Replies::default() };
        let greeting = session.reply().await?;
        if greeting.code() != 220 {
            return Err(Trouble::Refused("to be spoken to", greeting.refusal()));
        }
        let mut offers = session.hello(&self.hello).await?;
        if self.tls == MailTls::StartTls {
            if !offers.starttls {
                return Err(Trouble::NoTls);
            }
            session = session.start_tls(deadline).await?;
            offers = session.hello(&self.hello).await?;
        }
        if let Some(login) = &self.login {
            session.log_in(login, &offers).await?;
        }
        Ok((session, offers))
    }
}

/// One connection to the server.
struct Session {
    channel: Channel,
    replies: Replies,
}

impl Session {
    /// Sends a line and waits for its reply.
    async fn command(&mut self, line: &str) -> Result<Reply, Trouble> {
        self.is_asked()?;
        // In one piece, and wiped: it may be a password.
        let line = Zeroizing::new(format!("{line}\r\n"));
        self.channel.write_all(line.as_bytes()).await.map_err(broken)?;
        self.channel.flush().await.map_err(broken)?;
        self.reply().await
    }

    /// A reply that is there already answers nothing that was asked. Before TLS, anybody can put it there.
    fn is_asked(&self) -> Result<(), Trouble> {
        if self.replies.is_quiet() { Ok(()) } else { Err(Trouble::OutOfTurn) }
    }

    async fn reply(&mut self) -> Result<Reply, Trouble> {
        let mut buffer = [0; 1024];
        loop {
            if let Some(reply) = self.replies.take()? {
                return Ok(reply);
            }
            match self.channel.read(&mut buffer).await.map_err(broken)? {
                0 => return Err(Trouble::Closed),
                read => self.replies.push(&buffer[..read]),
            }
        }
    }

    /// A command that has to be done.
    async fn ask(&mut self, line: &str, what: &'static str) -> Result<Reply, Trouble> {
        let reply = self.command(line).await?;
        if reply.is_done() { Ok(reply) } else { Err(Trouble::Refused(what, reply.refusal())) }
    }

    /// A command with a reply of its own.
    async fn expect(&mut self, line: &str, code: u16, what: &'static str) -> Result<(), Trouble> {
        let reply = self.command(line).await?;
        if reply.code() == code { Ok(()) } else { Err(Trouble::Refused(what, reply.refusal())) }
    }

    async fn hello(&mut self, name: &str) -> Result<Offers, Trouble> {
        Ok(self.ask(&format!("EHLO {name}"), "the greeting").await?.offers())
    }

    /// RFC 3207: what was said before TLS is forgotten, and what was said and not asked for ends it.
    async fn start_tls(mut self, deadline: Instant) -> Result<Self, Trouble> {
        self.expect("STARTTLS", 220, "to begin TLS").await?;
        self.is_asked()?;
        Ok(Self { channel: self.channel.secured(deadline).await?, replies: Replies::default() })
    }

    /// RFC 4954. With the first message in the command, if that is not too long for one.
    async fn log_in(&mut self, login: &Login, offers: &Offers) -> Result<(), Trouble> {
        const WHAT: &str = "the username and password";
        let (username, password) = (&login.username, login.password.expose());
        if offers.plain {
            let message = smtp::plain(username, password);
            let command = Zeroizing::new(format!("AUTH PLAIN {}", *message));
            if command.len() + 2 <= smtp::MAX_COMMAND {
                return self.expect(&command, 235, WHAT).await;
            }
            self.expect("AUTH PLAIN", 334, WHAT).await?;
            return self.expect(&message, 235, WHAT).await;
        }
        if !offers.login {
            return Err(Trouble::NoLogin);
        }
        self.expect("AUTH LOGIN", 334, WHAT).await?;
        self.expect(&smtp::login(username), 334, WHAT).await?;
        self.expect(&smtp::login(password), 235, WHAT).await
    }

    /// Names the recipients; one that is refused takes nothing from the others.
    async fn recipients(&mut self, to: &[String]) -> Result<Vec<Recipient>, Trouble> {
        let mut recipients = Vec::with_capacity(to.len());
        for address in to {
            let reply = self.command(&format!("RCPT TO:<{address}>")).await?;
            // The server is about to close (RFC 5321, section 3.8).
            if reply.code() == 421 {
                return Err(Trouble::Refused("to go on", reply.refusal()));
            }
            let refused = (!reply.is_done()).then(|| reply.refusal());
            recipients.push(Recipient { address: address.clone(), refused });
        }
        Ok(recipients)
    }
}

/// Says good-bye; what comes of it changes nothing.
async fn leave(session: Option<Session>) {
    let Some(mut session) = session else { return };
    let farewell = async {
        drop(session.command("QUIT").await);
        drop(session.channel.shutdown().await);
    };
    drop(tokio::time::timeout(FAREWELL, farewell).await);
}

fn broken(error: std::io::Error) -> Trouble {
    Trouble::Broken(error.kind())
}

fn listed(recipients: &[Recipient]) -> String {
    let one = |recipient: &Recipient| {
        let why = recipient.refused.as_ref().map(Refusal::to_string).unwrap_or_default();
        format!("{} ({why})", recipient.address)
    };
    recipients.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
