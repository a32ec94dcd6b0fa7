//! Linear layers, plain and AWQ: what they become, what is refused.

use super::*;

#[test]
fn linear_layers_are_plain_or_awq() {
    let dir = folder(&[("model.safetensors", &safetensors(&awq_tensors()))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let not_down =
        Quantization::Awq { layout: AwqLayout::Gemm, group_size: 32, not_converted: vec!["down".to_owned()] };
    let cases = [
        ("up", 64, 24, &AWQ, true, true),
        ("up", 64, 24, &not_down, true, true),
        ("down", 64, 24, &not_down, false, false),
        ("down", 64, 24, &Quantization::None, false, false),
        ("lm_head", 64, 16, &AWQ, false, false),
    ];
    for (prefix, k, n, quantization, is_awq, has_bias) in cases {
        let layer = checkpoint.linear(prefix, k, n, quantization).unwrap();
        assert_eq!(matches!(layer.weight, LinearWeight::Awq { group_size: 32, .. }), is_awq, "{layer:?}");
        assert_eq!(layer.bias.is_some(), has_bias, "{layer:?}");
        assert_eq!(layer.weight_to_f32().unwrap().len(), k * n);
        assert_eq!((layer.name.as_str(), layer.in_features, layer.out_features), (prefix, k, n));
    }
}

#[test]
fn wrong_linear_layers_are_refused() {
    let groups_of =
        |group_size| Quantization::Awq { layout: AwqLayout::Gemm, group_size, not_converted: Vec::new() };
    let not_up =
        Quantization::Awq { layout: AwqLayout::Gemm, group_size: 32, not_converted: vec!["up".to_owned()] };
    let f32_scales: Spec = ("up.scales", Dtype::F32, &[2, 24]);
    let float_weight: Spec = ("up.qweight", Dtype::F16, &[64, 3]);
    let gemv: Spec = ("up.qweight", Dtype::I32, &[24, 8]);
    let long_bias: Spec = ("up.bias", Dtype::F16, &[25]);
    let cases = [
        (
            None,
            "up",
            (64, 24),
            groups_of(64),
            "tensor `up.qzeros`: expected I32 [1, 3], got I32 [2, 3] in DIR/model.safetensors; the model's configuration says AWQ \"gemm\" in groups of 64",
        ),
        (
            None,
            "up",
            (64, 24),
            groups_of(128),
            "tensor `up.qweight`: expected input features in whole groups of 128 and output features in multiples of 8, got 64 and 24",
        ),
        (None, "up", (64, 20), AWQ, "multiples of 8, got 64 and 20"),
        (None, "up", (32, 24), AWQ, "tensor `up.qweight`: expected I32 [32, 3], got I32 [64, 3]"),
        (
            None,
            "down",
            (64, 24),
            AWQ,
            "tensor `down.weight`: the layer is stored plain in a quantised checkpoint; expected `down.qweight`, or the layer named in `modules_to_not_convert`",
        ),
        (None, "gate", (64, 24), AWQ, "tensor `gate.qweight`: not among the 8 tensors"),
        (None, "up", (64, 24), not_up, "tensor `up.weight`: not among the 8 tensors"),
        (
            None,
            "down",
            (64, 16),
            Quantization::None,
            "tensor `down.weight`: expected F16 or BF16 or F32 [16, 64], got F16 [24, 64]",
        ),
        (Some(f32_scales), "up", (64, 24), AWQ, "tensor `up.scales`: expected F16 [2, 24], got F32 [2, 24]"),
        (
            Some(float_weight),
            "up",
            (64, 24),
            AWQ,
            "tensor `up.qweight`: expected I32 [64, 3], got F16 [64, 3]",
        ),
        (Some(gemv), "up", (64, 24), AWQ, "expected I32 [64, 3], got I32 [24, 8]"),
        (
            Some(long_bias),
            "up",
            (64, 24),
            AWQ,
            "tensor `up.bias`: expected F16 or BF16 or F32 [24], got F16 [25]",
        ),
    ];
    for (changed, prefix, (k, n), quantization, expected) in cases {
        let mut tensors = awq_tensors();
        for tensor in &mut tensors {
            *tensor = changed.filter(|changed| changed.0 == tensor.0).unwrap_or(*tensor);
        }
        let dir = folder(&[("model.safetensors", &safetensors(&tensors))]);
        let error = Checkpoint::open(dir.path()).unwrap().linear(prefix, k, n, &quantization).unwrap_err();
        let error = error.to_string().replace(&dir.path().display().to_string(), "DIR");
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
}
