//! Money in records: an exact decimal amount and its currency.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};

/// Digits after the decimal point.
const SCALE: u32 = 18;

const ONE: u128 = 10_u128.pow(SCALE);

/// The price of one round, or of a whole interception.
///
/// As JSON, the amount is decimal text, because a JSON number loses digits in most readers:
/// `{"amount":"0.00123","currency":"USD"}`.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::{Amount, Cost};
///
/// let per_token: Amount = "0.00000015".parse()?;
/// let cost = Cost::new(per_token.times(1_200).ok_or("too much")?, "USD");
/// assert_eq!(cost.to_string(), "0.00018 USD");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cost {
    /// How much.
    pub amount: Amount,
    /// The currency's ISO 4217 code, for example `USD`.
    pub currency: Cow<'static, str>,
}

/// An exact amount of money, zero or more, with up to 18 digits after the decimal point.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

/// The error for a text that is not an [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmountError(());

/// The costs of an interception's rounds, summed up as they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum CostSum {
    /// No round used tokens yet.
    #[default]
    Empty,
    Priced(Cost),
    /// A round has no price, the currencies differ, or the sum is too large: any sum would be wrong.
    Unpriced,
}

// === impl Cost ===

impl Cost {
    /// A cost in the currency with this ISO 4217 code.
    #[must_use]
    pub fn new(amount: Amount, currency: impl Into<Cow<'static, str>>) -> Self {
        Self {
            amount,
            currency: currency.into(),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount, self.currency)
    }
}

// === impl Amount ===

impl Amount {
    /// The sum; `None` if it is too large to be exact (over 10²⁰).
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The amount for `count` things at this price each; `None` if it is too large to be exact (over 10²⁰).
    #[must_use]
    pub fn times(self, count: u64) -> Option<Self> {
        self.0.checked_mul(count.into()).map(Self)
    }

    /// The amount for a metric, to some 15 digits.
    pub(super) fn approximate(self) -> f64 {
        self.0 as f64 / ONE as f64
    }

    /// A millionth of it, for rates that are quoted per million. Exact for amounts with up to 12 digits after the
    /// point.
    pub(super) fn per_million(self) -> Self {
        Self(self.0 / 1_000_000)
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    /// Reads decimal text such as `12`, `0.00123` or `1.50`.
    ///
    /// # Errors
    ///
    /// On a sign, an exponent, any other character that is not a digit, more than 18 digits after the point (not
    /// counting zeros at the end), or an amount over 10²⁰.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return Err(AmountError(()));
        }
        let fraction = fraction.trim_end_matches('0');
        let missing = usize::try_from(SCALE)
            .ok()
            .and_then(|scale| scale.checked_sub(fraction.len()))
            .and_then(|missing| u32::try_from(missing).ok())
            .ok_or(AmountError(()))?;
        let parse = |digits: &str| match digits {
            "" => Some(0),
            digits => digits.parse::<u128>().ok(),
        };
        parse(whole)
            .and_then(|whole| whole.checked_mul(ONE))
            .zip(parse(fraction).and_then(|fraction| fraction.checked_mul(10_u128.pow(missing))))
            .and_then(|(whole, fraction)| whole.checked_add(fraction))
            .map(Self)
            .ok_or(AmountError(()))
    }
}

/// Decimal text without an exponent and without zeros at its end.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / ONE, self.0 % ONE);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:018}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

// === impl AmountError ===

impl fmt::Display for AmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an amount: expected decimal text such as 0.00123, with at most 18 digits behind the point")
    }
}

impl std::error::Error for AmountError {}

// === impl CostSum ===

impl CostSum {
    /// Adds one round's cost.
    pub(super) fn add(&mut self, cost: Option<&Cost>) {
        *self = match (std::mem::take(self), cost) {
            (Self::Empty, Some(cost)) => Self::Priced(cost.clone()),
            (Self::Priced(sum), Some(cost)) if sum.currency == cost.currency => sum
                .amount
                .plus(cost.amount)
                .map_or(Self::Unpriced, |amount| Self::Priced(Cost { amount, ..sum })),
            _ => Self::Unpriced,
        };
    }

    pub(super) fn into_cost(self) -> Option<Cost> {
        match self {
            Self::Priced(cost) => Some(cost),
            Self::Empty | Self::Unpriced => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    #[test]
    fn amounts_are_read_and_written_exactly() {
        for (text, written) in [
            ("0", "0"),
            ("0.0", "0"),
            ("7", "7"),
            ("0.00123", "0.00123"),
            ("1.50", "1.5"),
            ("007", "7"),
            ("0.000000000000000001", "0.000000000000000001"),
            ("0.1000000000000000000000000", "0.1"),
            ("100000000000000000000", "100000000000000000000"),
        ] {
            assert_eq!(amount(text).to_string(), written);
        }
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            " 1",
            "0.0000000000000000001",
            "1.0.0",
            "1000000000000000000000",
            "NaN",
        ] {
            assert_eq!(text.parse::<Amount>(), Err(AmountError(())), "{text}");
        }
    }

    #[test]
    fn a_cost_is_text_in_json() {
        let cost = Cost::new(amount("0.00123"), "USD");
        let json = r#"{"amount":"0.00123","currency":"USD"}"#;
        assert_eq!(serde_json::to_string(&cost).unwrap(), json);
        assert_eq!(serde_json::from_str::<Cost>(json).unwrap(), cost);
        assert!(serde_json::from_str::<Cost>(r#"{"amount":0.00123,"currency":"USD"}"#).is_err());
    }

    #[test]
    fn one_round_without_a_price_leaves_the_sum_without_one() {
        let (usd, eur) = (Cost::new(amount("0.1"), "USD"), Cost::new(amount("0.2"), "EUR"));
        let sum = |costs: &[Option<&Cost>]| {
            let mut sum = CostSum::default();
            costs.iter().for_each(|cost| sum.add(*cost));
            sum.into_cost()
        };
        assert_eq!(sum(&[]), None);
        assert_eq!(sum(&[Some(&usd)]), Some(usd.clone()));
        assert_eq!(sum(&[Some(&usd), Some(&usd)]), Some(Cost::new(amount("0.2"), "USD")));
        assert_eq!(sum(&[Some(&usd), None, Some(&usd)]), None);
        assert_eq!(sum(&[None, Some(&usd)]), None);
        assert_eq!(sum(&[Some(&usd), Some(&eur)]), None);
        let huge = Cost::new(Amount(u128::MAX), "USD");
        assert_eq!(sum(&[Some(&huge), Some(&usd)]), None);
    }

    proptest! {
        #[test]
        fn every_amount_survives_its_text(units in any::<u128>()) {
            prop_assert_eq!(Amount(units).to_string().parse::<Amount>(), Ok(Amount(units)));
        }
    }
}
