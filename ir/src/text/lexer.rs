//! Words, numbers, strings and marks of ONNX text.
//!
//! **Never** holds the text twice: tokens are slices of it, except for strings, whose escapes are resolved.
use super::ParseError;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// An identifier
    Word(&'a str),
    /// A string in double quotes, `\"` and `\\` resolved (before any other character a backslash vanishes)
    Text(String),
    /// Digits, with a minus perhaps
    Integer(&'a str),
    /// A number with a point or an exponent, or a negative infinity or NaN
    Real(&'a str),
    /// `=>`
    Arrow,
    /// Any other character
    Mark(char),
    /// The text is over
    End,
}

impl Token<'_> {
    /// How an error calls it.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(text) | Token::Integer(text) | Token::Real(text) => format!("`{text}`"),
            Token::Text(text) => format!("the string \"{text}\""),
            Token::Arrow => "`=>`".to_owned(),
            Token::Mark('…') => "`…` (values that a short print left out)".to_owned(),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the text".to_owned(),
        }
    }
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, position: 0 }
    }

    /// The next token and the byte where it begins.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'a>), ParseError> {
        self.skip_space();
        let start = self.position;
        let rest = &self.text[start..];
        let Some(first) = rest.chars().next() else { return Ok((start, Token::End)) };
        let token = match first {
            '"' => Token::Text(self.string(start)?),
            '=' if rest.starts_with("=>") => self.slice(2, |_| Token::Arrow),
            '0'..='9' => self.number(rest, 0),
            '-' => match rest[1..].chars().next() {
                Some('0'..='9') => self.number(rest, 1),
                Some(letter) if letter.is_ascii_alphabetic() => {
                    let length = 1 + word_length(&rest[1..]);
                    if !is_special_real(&rest[1..length]) {
                        return Err(ParseError::at(self.text, start, "a number", &format!("`{}`", &rest[..length])));
                    }
                    self.slice(length, Token::Real)
                }
                _ => return Err(ParseError::at(self.text, start, "a number", "`-`")),
            },
            'A'..='Z' | 'a'..='z' | '_' => self.slice(word_length(rest), Token::Word),
            mark => self.slice(mark.len_utf8(), |_| Token::Mark(mark)),
        };
        Ok((start, token))
    }

    fn slice(&mut self, length: usize, token: impl FnOnce(&'a str) -> Token<'a>) -> Token<'a> {
        let slice = &self.text[self.position..self.position + length];
        self.position += length;
        token(slice)
    }

    /// Spaces and comments, which go from `#` to the end of the line.
    fn skip_space(&mut self) {
        loop {
            let rest = self.text[self.position..].trim_ascii_start();
            self.position = self.text.len() - rest.len();
            if !rest.starts_with('#') {
                return;
            }
            self.position += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn number(&mut self, rest: &'a str, sign: usize) -> Token<'a> {
        let bytes = rest.as_bytes();
        let digits = |from: usize| from + bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut end = digits(sign);
        let mut real = false;
        if bytes.get(end) == Some(&b'.') {
            real = true;
            end = digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let exponent = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if bytes.get(exponent).is_some_and(u8::is_ascii_digit) {
                real = true;
                end = digits(exponent);
            }
        }
        self.slice(end, if real { Token::Real } else { Token::Integer })
    }

    fn string(&mut self, start: usize) -> Result<String, ParseError> {
        let mut text = String::new();
        let mut characters = self.text[start + 1..].char_indices();
        while let Some((offset, character)) = characters.next() {
            match character {
                '"' => {
                    self.position = start + 1 + offset + 1;
                    return Ok(text);
                }
                '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
                other => text.push(other),
            }
        }
        Err(ParseError::at(self.text, start, "a closing `\"` for the string that begins here", "the end of the text"))
    }
}

fn word_length(text: &str) -> usize {
    text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count()
}

/// Whether `word` is a number that is written in letters.
pub(super) fn is_special_real(word: &str) -> bool {
    ["nan", "inf", "infinity"].iter().any(|special| word.eq_ignore_ascii_case(special))
}

/// Whether `name` is an identifier, and so needs no quotes.
pub(super) fn is_word(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()) && word_length(name) == name.len()
}
