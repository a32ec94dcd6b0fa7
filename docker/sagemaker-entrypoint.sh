#!/bin/sh
# Starts the server as SageMaker expects: settings in the variables of its Hugging Face containers, port 8080. The
# arguments that SageMaker gives (`serve`) say nothing. Used by the image's target `sagemaker`.
set -eu

if [ -z "${HF_MODEL_ID:-}" ]; then
    echo "HF_MODEL_ID must be set: the id of a model on the Hugging Face Hub, or a folder such as /opt/ml/model" >&2
    exit 1
fi
export MODEL_ID="$HF_MODEL_ID"
[ -z "${HF_MODEL_REVISION:-}" ] || export REVISION="$HF_MODEL_REVISION"
[ -z "${SM_NUM_GPUS:-}" ] || export NUM_SHARD="$SM_NUM_GPUS"
[ -z "${HF_MODEL_QUANTIZE:-}" ] || export QUANTIZE="$HF_MODEL_QUANTIZE"
[ -z "${HF_MODEL_TRUST_REMOTE_CODE:-}" ] || export TRUST_REMOTE_CODE="$HF_MODEL_TRUST_REMOTE_CODE"

exec text-generation-launcher --port 8080
