//! What an application's token function may return.

use crate::machine::NoToken;

/// Why a token function has no token. Any error becomes one by `?`, and is tried again later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenError {
    message: String,
    final_: bool,
}

impl TokenError {
    /// The user may not connect: the client gives up.
    pub fn not_allowed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            final_: true,
        }
    }

    /// There is no token now: the client tries again later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            final_: false,
        }
    }
}

// It is no `Error` itself, so that every error can become one.
impl<E: std::error::Error> From<E> for TokenError {
    fn from(error: E) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<TokenError> for NoToken {
    fn from(error: TokenError) -> Self {
        match error.final_ {
            true => Self::NotAllowed(error.message),
            false => Self::Failed(error.message),
        }
    }
}

/// What a token function returns: a text, or a result of one.
pub trait IntoToken {
    /// The error as the failure of a token function.
    ///
    /// # Errors
    /// When there is no token.
    fn into_token(self) -> Result<String, TokenError>;
}

impl IntoToken for String {
    fn into_token(self) -> Result<String, TokenError> {
        Ok(self)
    }
}

impl IntoToken for &str {
    fn into_token(self) -> Result<String, TokenError> {
        Ok(self.to_owned())
    }
}

impl<T: Into<String>, E: Into<TokenError>> IntoToken for Result<T, E> {
    fn into_token(self) -> Result<String, TokenError> {
        self.map(Into::into).map_err(Into::into)
    }
}
