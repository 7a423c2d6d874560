//! The exponential behind every softmax here.

/// Below this the result is smaller than the smallest normal f32.
const UNDERFLOW: f32 = -87.0;

/// `exp(x)` for `x <= 0`, within 3e-7 relative; 0 below -87.
///
/// Own code for two reasons: it uses only operations whose rounding IEEE 754 fixes, so a seed
/// draws the same token on every platform, and it vectorises where a library call does not.
pub(super) fn exp_nonpositive(x: f32) -> f32 {
    // ln 2 in two parts; the first has so few bits that n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds a small f32 to an integer, which stands in the low bits of the sum;
    // a cast would do too, but its saturation keeps the loop from being vectorised.
    const ROUND: f32 = 12_582_912.0;

    let clamped = x.max(UNDERFLOW);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor series to degree 7: |r| <= ln(2)/2 leaves an error below 1e-8.
    let mut sum = 1.0 / 5040.0;
    for factor in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * r + factor;
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let power = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x < UNDERFLOW { 0.0 } else { sum * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_value() {
        const RELATIVE: f64 = 3e-7;
        for i in 0..87_000 {
            let x = i as f32 * -1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - exact).abs() / exact;
            assert!(error < RELATIVE, "exp({x}): relative error {error:e}");
        }
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-0.0), 1.0);
        assert_eq!(exp_nonpositive(-88.0), 0.0);
        assert_eq!(exp_nonpositive(f32::MIN), 0.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
    }
}
