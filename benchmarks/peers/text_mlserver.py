"""MLServer with its adaptive batching, for texts: the task is a second input of the V2 protocol."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from text_models import Models


class Texts(MLModel):
    async def load(self) -> bool:
        self.models = Models()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {one.name: one for one in payload.inputs}
        tasks = np.asarray(NumpyCodec.decode_input(inputs["task"])).reshape(-1).tolist()
        labels = self.models.answer(tasks, StringCodec.decode_input(inputs["text"]))
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("label", labels)])
