//! The price of a round: a hook, and the rates that a user may set for it.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

#[cfg(feature = "prices")]
#[cfg_attr(docsrs, doc(cfg(feature = "prices")))]
pub use super::list_prices::ListPrices;
use super::{Amount, AmountError, Cost, Fact};
use crate::types::{Dialect, TokenDetails, TokenUsage};

/// How many models without a price are named in the log.
const MAX_NAMED: usize = 256;

/// All that the price of one round depends on, as the provider's answer reported it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Round<'a> {
    /// The provider's name as configured, for example `openai`.
    pub provider: &'a str,
    /// The model API.
    pub dialect: Dialect,
    /// The model that answered, as the provider names it.
    pub model: &'a str,
    /// The service tier that the request was processed with, as the provider reports it.
    pub service_tier: Option<&'a str>,
    /// The counts of tokens, both classes of the cache included.
    pub usage: TokenUsage,
    /// The provider's other counts, such as audio tokens or cache writes that live for an hour.
    pub extra: &'a TokenDetails,
    /// When the answer was read.
    pub at: SystemTime,
}

/// Says what a round cost. Set it with [`Recorder::price`](super::Recorder::price).
///
/// It is called once per round, when the round's usage is recorded, and must neither block nor take long. A closure can
/// be a `Price`.
///
/// # Examples
///
/// Own rates for one model, and another price list for the rest:
///
/// ```
/// use tower_llm_bridge::record::price::{OwnPrices, Price, Rates, Round};
/// use tower_llm_bridge::record::{Amount, Cost, Recorder};
///
/// let own = OwnPrices::new().model("house-model", Rates::per_million("0.50", "1.50", "USD")?);
/// let per_search: Amount = "0.01".parse()?;
/// let searches = move |round: &Round<'_>| {
///     let count = round.extra.get("web_search_requests")?;
///     Some(Cost::new(per_search.times(count)?, "USD"))
/// };
/// let (recorder, events) = Recorder::channel(1024);
/// let recorder = recorder.price(own.or(searches));
/// # drop((recorder, events));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Price: Send + Sync + 'static {
    /// The round's price; `None` if it is not known. A price of 0 says that the round was free.
    fn price(&self, round: &Round<'_>) -> Option<Cost>;

    /// Asks this one, and `other` for rounds whose price this one does not know.
    fn or<P: Price>(self, other: P) -> impl Price
    where
        Self: Sized,
    {
        move |round: &Round<'_>| self.price(round).or_else(|| other.price(round))
    }
}

impl<F: Fn(&Round<'_>) -> Option<Cost> + Send + Sync + 'static> Price for F {
    fn price(&self, round: &Round<'_>) -> Option<Cost> {
        self(round)
    }
}

/// The price of tokens of one model, by class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Per million tokens.
    input: Amount,
    output: Amount,
    cache_read: Amount,
    cache_write: Amount,
    currency: String,
}

/// Rates that a user set, by model.
///
/// See [`Price`] for an example.
#[derive(Clone, Debug, Default)]
pub struct OwnPrices {
    models: HashMap<String, Rates>,
}

/// The hook, and the models for which it had no price.
#[derive(Clone)]
pub(super) struct Pricing {
    hook: Arc<dyn Price>,
    /// Models without a price that were named in the log.
    named: Arc<Mutex<HashSet<String>>>,
}

/// The hook for one interception.
pub(super) struct Priced {
    pricing: Pricing,
    provider: String,
    dialect: Dialect,
}

// === impl Rates ===

impl Rates {
    /// The prices of a million tokens of input and of output, as decimal text; `currency` is an ISO 4217 code. Cached
    /// tokens cost as much as other input, until they are given a price.
    ///
    /// # Errors
    ///
    /// When a price is not an [`Amount`].
    pub fn per_million(input: &str, output: &str, currency: impl Into<String>) -> Result<Self, AmountError> {
        let input = input.parse()?;
        Ok(Self {
            input,
            output: output.parse()?,
            cache_read: input,
            cache_write: input,
            currency: currency.into(),
        })
    }

    /// Sets the prices of a million tokens read from the provider's cache, and written to it.
    ///
    /// # Errors
    ///
    /// When a price is not an [`Amount`].
    pub fn cached(mut self, read: &str, written: &str) -> Result<Self, AmountError> {
        self.cache_read = read.parse()?;
        self.cache_write = written.parse()?;
        Ok(self)
    }

    /// The price of these tokens; `None` if it is too large to be exact.
    fn of(&self, usage: TokenUsage) -> Option<Cost> {
        let amount = [
            (self.input, usage.input),
            (self.output, usage.output),
            (self.cache_read, usage.cache_read_input_tokens),
            (self.cache_write, usage.cache_write_input_tokens),
        ]
        .into_iter()
        .try_fold(Amount::default(), |sum, (rate, count)| sum.plus(rate.times(count)?))?;
        Some(Cost::new(amount.per_million(), self.currency.clone()))
    }
}

// === impl OwnPrices ===

impl OwnPrices {
    /// No prices yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the rates of a model, by the name that the provider's answers give it.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>, rates: Rates) -> Self {
        self.models.insert(name.into(), rates);
        self
    }
}

impl Price for OwnPrices {
    fn price(&self, round: &Round<'_>) -> Option<Cost> {
        self.models.get(round.model)?.of(round.usage)
    }
}

// === impl Pricing ===

impl Pricing {
    pub(super) fn new(hook: impl Price) -> Self {
        Self {
            hook: Arc::new(hook),
            named: Arc::default(),
        }
    }

    /// For the interception that begins with `started`.
    pub(super) fn begin(&self, started: &Fact) -> Option<Priced> {
        match started {
            Fact::Started { provider, dialect, .. } => Some(Priced {
                pricing: self.clone(),
                provider: provider.clone(),
                dialect: *dialect,
            }),
            _ => None,
        }
    }

    fn name_unpriced(&self, round: &Round<'_>) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() < MAX_NAMED && round.model.len() < 1024 && named.insert(round.model.to_owned()) {
            tracing::warn!(
                provider = round.provider,
                model = round.model,
                service_tier = round.service_tier,
                "no price is known for these tokens: their cost is recorded as null"
            );
        }
    }
}

impl fmt::Debug for Pricing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pricing").finish_non_exhaustive()
    }
}

// === impl Priced ===

impl Priced {
    /// Fills in the cost of a round that has none.
    pub(super) fn fill(&self, fact: &mut Fact) {
        let Fact::TokenUsage {
            model,
            service_tier,
            usage,
            extra,
            cost: cost @ None,
            ..
        } = fact
        else {
            return;
        };
        let round = Round {
            provider: &self.provider,
            dialect: self.dialect,
            model,
            service_tier: service_tier.as_deref(),
            usage: *usage,
            extra,
            at: SystemTime::now(),
        };
        // Events are also recorded while a panic unwinds; a second one would abort the process.
        *cost = catch_unwind(AssertUnwindSafe(|| self.pricing.hook.price(&round))).unwrap_or_default();
        if cost.is_none() {
            self.pricing.name_unpriced(&round);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, output: u64, read: u64, written: u64) -> TokenUsage {
        TokenUsage {
            input,
            output,
            cache_read_input_tokens: read,
            cache_write_input_tokens: written,
        }
    }

    fn round(model: &str, usage: TokenUsage) -> Round<'_> {
        static EXTRA: std::sync::LazyLock<TokenDetails> = std::sync::LazyLock::new(TokenDetails::default);
        Round {
            provider: "openai",
            dialect: Dialect::ChatCompletions,
            model,
            service_tier: None,
            usage,
            extra: &EXTRA,
            at: SystemTime::now(),
        }
    }

    #[test]
    fn own_rates_price_each_class_exactly() {
        let rates = Rates::per_million("2.50", "10", "EUR").unwrap();
        assert_eq!(rates.of(usage(1, 1, 1, 1)).unwrap().to_string(), "0.0000175 EUR");
        let rates = rates.cached("1.25", "3.125").unwrap();
        assert_eq!(
            rates.of(usage(1_000, 100, 10, 1)).unwrap().to_string(),
            "0.003515625 EUR"
        );
        assert_eq!(rates.of(TokenUsage::default()).unwrap().to_string(), "0 EUR");
        let dear = Rates::per_million("1000", "1000", "EUR").unwrap();
        assert_eq!(dear.of(usage(u64::MAX, 0, 0, 0)), None);
        assert!(Rates::per_million("2,50", "10", "EUR").is_err());
    }

    #[test]
    fn models_without_a_price_are_named_once_and_not_without_end() {
        let logs = crate::logs::Logs::capture();
        let pricing = Pricing::new(|_: &Round<'_>| None);
        let priced = pricing.begin(&crate::record::tests::started()).unwrap();
        for number in (0..300).chain(0..300) {
            let mut fact = Fact::TokenUsage {
                msg_id: String::new(),
                model: format!("model-{number:03}"),
                service_tier: None,
                usage: TokenUsage::default(),
                extra: TokenDetails::default(),
                cost: None,
            };
            priced.fill(&mut fact);
            assert!(matches!(fact, Fact::TokenUsage { cost: None, .. }));
        }
        let text = logs.text();
        assert_eq!(text.matches("no price is known").count(), MAX_NAMED);
        assert_eq!(text.matches("model-007").count(), 1);
    }

    #[test]
    fn the_first_price_that_is_known_counts() {
        let own = OwnPrices::new().model("ours", Rates::per_million("1", "1", "USD").unwrap());
        let list = |round: &Round<'_>| (round.model != "unknown").then(|| Cost::new(Amount::default(), "USD"));
        let both = own.or(list);
        let price = |model| {
            both.price(&round(model, usage(1_000_000, 0, 0, 0)))
                .map(|cost| cost.to_string())
        };
        assert_eq!(price("ours"), Some("1 USD".to_owned()));
        assert_eq!(price("theirs"), Some("0 USD".to_owned()));
        assert_eq!(price("unknown"), None);
    }
}
