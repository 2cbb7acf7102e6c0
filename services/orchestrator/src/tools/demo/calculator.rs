//! Calculates what is written with + - * / and parentheses.

use thiserror::Error;

/// Why there is no answer.
#[derive(Debug, Error, PartialEq)]
pub(super) enum Wrong {
    #[error("The expression ends too early.")]
    Ends,
    #[error("Unexpected \"{0}\" in the expression.")]
    Unexpected(char),
    #[error("\"{0}\" is not a number.")]
    NotANumber(String),
    #[error("Division by zero.")]
    DividesByZero,
    #[error("The result is too large.")]
    TooLarge,
    #[error("The expression is nested too deeply.")]
    TooDeep,
}

const MAX_DEPTH: usize = 100;

pub(super) fn answer(expression: &str) -> Result<f64, Wrong> {
    let mut rest = Rest { text: expression };
    let value = sum(&mut rest, 0)?;
    match rest.peek() {
        Some(unexpected) => Err(Wrong::Unexpected(unexpected)),
        None if value.is_finite() => Ok(value),
        None => Err(Wrong::TooLarge),
    }
}

fn sum(rest: &mut Rest<'_>, depth: usize) -> Result<f64, Wrong> {
    let mut value = product(rest, depth)?;
    loop {
        if rest.take('+') {
            value += product(rest, depth)?;
        } else if rest.take('-') {
            value -= product(rest, depth)?;
        } else {
            return Ok(value);
        }
    }
}

fn product(rest: &mut Rest<'_>, depth: usize) -> Result<f64, Wrong> {
    let mut value = factor(rest, depth)?;
    loop {
        if rest.take('*') {
            value *= factor(rest, depth)?;
        } else if rest.take('/') {
            let divisor = factor(rest, depth)?;
            if divisor == 0.0 {
                return Err(Wrong::DividesByZero);
            }
            value /= divisor;
        } else {
            return Ok(value);
        }
    }
}

fn factor(rest: &mut Rest<'_>, depth: usize) -> Result<f64, Wrong> {
    if depth == MAX_DEPTH {
        return Err(Wrong::TooDeep);
    }
    if rest.take('-') {
        return factor(rest, depth + 1).map(|value| -value);
    }
    if rest.take('+') {
        return factor(rest, depth + 1);
    }
    if rest.take('(') {
        let value = sum(rest, depth + 1)?;
        return match rest.peek() {
            Some(')') => {
                rest.take(')');
                Ok(value)
            }
            Some(unexpected) => Err(Wrong::Unexpected(unexpected)),
            None => Err(Wrong::Ends),
        };
    }
    rest.number()
}

/// What is not read yet.
struct Rest<'a> {
    text: &'a str,
}

impl Rest<'_> {
    fn peek(&mut self) -> Option<char> {
        self.text = self.text.trim_start();
        self.text.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.text = &self.text[wanted.len_utf8()..];
        }
        found
    }

    fn number(&mut self) -> Result<f64, Wrong> {
        let first = self.peek().ok_or(Wrong::Ends)?;
        let is_part = |c: char| c.is_ascii_digit() || c == '.';
        let length = self.text.find(|c| !is_part(c)).unwrap_or(self.text.len());
        let (number, rest) = self.text.split_at(length);
        if number.is_empty() {
            return Err(Wrong::Unexpected(first));
        }
        self.text = rest;
        number
            .parse()
            .map_err(|_| Wrong::NotANumber(number.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_bind_more_than_sums_and_both_to_the_left() {
        let known = [
            ("1 + 2 * 3", 7.0),
            ("(1+2)*3", 9.0),
            ("10 - 4 - 3", 3.0),
            ("16 / 4 / 2", 2.0),
            ("-(2 - 5) * --2", 6.0),
            (" .5 + 1. ", 1.5),
        ];
        for (expression, value) in known {
            assert_eq!(answer(expression), Ok(value), "{expression}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let deep = "(".repeat(100_000);
        let many = "9".repeat(400);
        let known = [
            ("", Wrong::Ends),
            ("1 +", Wrong::Ends),
            ("(1", Wrong::Ends),
            ("1 2", Wrong::Unexpected('2')),
            ("(1 2)", Wrong::Unexpected('2')),
            ("ä", Wrong::Unexpected('ä')),
            ("1.2.3", Wrong::NotANumber("1.2.3".to_owned())),
            ("1 / (2 - 2)", Wrong::DividesByZero),
            (&deep, Wrong::TooDeep),
            (&many, Wrong::TooLarge),
        ];
        for (expression, wrong) in known {
            assert_eq!(answer(expression), Err(wrong));
        }
    }
}
