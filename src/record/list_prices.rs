//! The providers' public prices, from the `genai-prices` crate: its data is compiled in, and nothing is downloaded.

use genai_prices::{Calculator, PriceRequest, Usage, UsageKey};

use super::{
    Amount, Cost,
    price::{Price, Round},
};
use crate::types::TokenUsage;

/// The names that OpenAI and Anthropic give the standard tier.
const STANDARD_TIERS: &[&str] = &["default", "standard"];

/// The providers' public prices in USD.
///
/// A round is unpriced when
///
/// - the list does not know its provider or model,
/// - the list has no price for its service tier other than the standard one,
/// - the list leaves out a part of its counts,
/// - or its price is 0: the list does not tell a free model from one without rates.
///
/// The list knows providers by names such as `openai`, `anthropic` or `azure`: the name set with
/// [`BridgeLayer::provider`](crate::BridgeLayer::provider) has to be one of them; for another name, use
/// [`of`](Self::of).
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::{Recorder, price::{ListPrices, OwnPrices, Price, Rates}};
///
/// let negotiated = OwnPrices::new().model("gpt-4o-2024-08-06", Rates::per_million("2.00", "8.00", "USD")?);
/// let (recorder, events) = Recorder::channel(1024);
/// let recorder = recorder.price(negotiated.or(ListPrices::new()));
/// # drop((recorder, events));
/// # Ok::<(), tower_llm_bridge::record::AmountError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ListPrices {
    provider: Option<String>,
}

// === impl ListPrices ===

impl ListPrices {
    /// The list, for providers that are configured under the list's own names.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "it unpacks a list, which a default should not"
    )]
    pub fn new() -> Self {
        Self::of_provider(None)
    }

    /// The list of this provider's prices, whatever name the provider is configured under.
    #[must_use]
    pub fn of(provider: impl Into<String>) -> Self {
        Self::of_provider(Some(provider.into()))
    }

    fn of_provider(provider: Option<String>) -> Self {
        // Unpacking takes tens of milliseconds; no request should wait for it.
        let _ = Calculator::bundled();
        Self { provider }
    }

    fn total(&self, round: &Round<'_>, usage: &Usage, context: Option<(&str, &str)>) -> Option<f64> {
        let provider = self.provider.as_deref().unwrap_or(round.provider);
        let mut request = PriceRequest::new(round.model, usage)
            .with_provider_id(provider)
            .with_timestamp(round.at);
        if let Some((key, value)) = context {
            request = request.with_price_context(key, value);
        }
        let price = genai_prices::calculate(&request).ok()?;
        // A warning says that something was left out of the sum.
        price.warnings.is_empty().then_some(price.total_price)
    }
}

impl Price for ListPrices {
    fn price(&self, round: &Round<'_>) -> Option<Cost> {
        let usage = usage(round);
        let standard = self.total(round, &usage, None)?;
        let total = match round.service_tier {
            None => standard,
            Some(tier) if STANDARD_TIERS.contains(&tier) => standard,
            Some(tier) => {
                let context = if tier == "batch" {
                    ("processing", tier)
                } else {
                    ("service_tier", tier)
                };
                let total = self.total(round, &usage, Some(context))?;
                // The list answers with the standard price where it does not know the tier.
                (total.to_bits() != standard.to_bits()).then_some(total)?
            }
        };
        // The list has models without any rates. Nothing in its answer tells them from free ones.
        if total <= 0.0 && round.usage != TokenUsage::default() {
            return None;
        }
        // Rates have few digits; further ones are errors of binary fractions.
        let amount: Amount = format!("{total:.12}").parse().ok()?;
        Some(Cost::new(amount, "USD"))
    }
}

/// The counts under the list's names. Each class is counted in the more general one as well.
fn usage(round: &Round<'_>) -> Usage {
    let tokens = round.usage;
    let input = tokens
        .input
        .saturating_add(tokens.cache_read_input_tokens)
        .saturating_add(tokens.cache_write_input_tokens);
    let extra = |name| round.extra.get(name).unwrap_or(0);
    let counts = [
        (UsageKey::CACHE_READ_TOKENS, tokens.cache_read_input_tokens),
        (UsageKey::CACHE_WRITE_TOKENS, tokens.cache_write_input_tokens),
        (UsageKey::CACHE_WRITE_1H_TOKENS, extra("cache_ephemeral_1h_input")),
        (UsageKey::INPUT_AUDIO_TOKENS, extra("prompt_audio")),
        (UsageKey::OUTPUT_AUDIO_TOKENS, extra("completion_audio")),
        (UsageKey::WEB_SEARCHES, extra("web_search_requests")),
    ];
    let mut usage = Usage::new();
    usage.insert(UsageKey::INPUT_TOKENS, input as f64);
    usage.insert(UsageKey::OUTPUT_TOKENS, tokens.output as f64);
    for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        usage.insert(name, count as f64);
    }
    usage
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::types::{Dialect, TokenDetails};

    struct Case {
        provider: &'static str,
        model: &'static str,
        tier: Option<&'static str>,
        counts: [u64; 4],
        extra: &'static [(&'static str, u64)],
    }

    /// The price in the middle of November 2026, whose rates the list has from then on.
    fn price(case: &Case) -> Option<String> {
        let [input, output, cache_read_input_tokens, cache_write_input_tokens] = case.counts;
        let usage = TokenUsage {
            input,
            output,
            cache_read_input_tokens,
            cache_write_input_tokens,
        };
        let round = Round {
            provider: case.provider,
            dialect: Dialect::ChatCompletions,
            model: case.model,
            service_tier: case.tier,
            usage,
            extra: &TokenDetails::from_iter(case.extra.iter().copied()),
            at: UNIX_EPOCH + Duration::from_secs(1_794_700_000),
        };
        ListPrices::new().price(&round).map(|cost| cost.to_string())
    }

    const GPT: Case = Case {
        provider: "openai",
        model: "gpt-4o-2024-08-06",
        tier: None,
        counts: [1_000, 100, 500, 0],
        extra: &[],
    };

    const CLAUDE: Case = Case {
        provider: "anthropic",
        model: "claude-opus-4-5-20251101",
        tier: Some("standard"),
        counts: [1_000, 100, 500, 200],
        extra: &[("cache_ephemeral_1h_input", 150), ("cache_ephemeral_5m_input", 50)],
    };

    #[test]
    fn tokens_cost_by_their_class() {
        // 1,000 at 2.50, 100 at 10, 500 at 1.25, each per million.
        assert_eq!(price(&GPT).unwrap(), "0.004125 USD");
        // 1,000 at 5, 100 at 25, 500 at 0.50, 150 at 10, 50 at 6.25.
        assert_eq!(price(&CLAUDE).unwrap(), "0.0095625 USD");
        let free = Case { counts: [0; 4], ..GPT };
        assert_eq!(price(&free).unwrap(), "0 USD");
    }

    #[test]
    fn tokens_written_to_a_cache_cost_as_input_where_the_list_has_no_rate_for_them() {
        let written = Case {
            counts: [980, 100, 500, 20],
            ..GPT
        };
        assert_eq!(price(&written), price(&GPT));
    }

    #[test]
    fn tiers_cost_by_the_answers_word() {
        let tier = |tier| {
            price(&Case {
                tier: Some(tier),
                ..GPT
            })
        };
        assert_eq!(tier("default"), price(&GPT));
        // 4.25, 17 and 2.125.
        assert_eq!(tier("priority").unwrap(), "0.0070125 USD");
        assert_eq!(tier("unheard of"), None);
        let batch = Case {
            tier: Some("batch"),
            ..CLAUDE
        };
        assert_eq!(price(&batch).unwrap(), "0.00478125 USD");
    }

    #[test]
    fn searches_cost_too() {
        let searched = Case {
            extra: &[("web_search_requests", 3)],
            ..CLAUDE
        };
        // As above, with 200 cache writes at 6.25, and 3 searches at 10 per thousand.
        assert_eq!(price(&searched).unwrap(), "0.039 USD");
    }

    #[test]
    fn what_is_not_in_the_list_has_no_price() {
        assert_eq!(
            price(&Case {
                model: "house-model",
                ..GPT
            }),
            None
        );
        assert_eq!(price(&Case { model: "", ..GPT }), None);
        assert_eq!(
            price(&Case {
                provider: "acme",
                ..GPT
            }),
            None
        );
    }
}
