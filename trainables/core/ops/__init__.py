"""Stacked layers: K members' tensors side by side, each member seeing its own weights only.

Every tensor leads with the member dimension K; what follows is the plain layer's. Layers that mix the last dimension
take `[K, ..., width]` (a transformer keeps `[K, N, width]`, N the positions of a member's whole batch, sequences
batch-major); layers over channels take `[K, B, C, *space]`. No operation reduces over members, divides by something
shared or multiplies by a mask, so what is NaN in one member stays there, forward and backward.

What torch takes as one float for all (dropout's probability, momentum, label smoothing) is a `(K,)` tensor here: a
live hyperparameter, changed in place.
"""

from trainables.core.ops.attention import attention as attention
from trainables.core.ops.attention import causal_attention as causal_attention
from trainables.core.ops.attention import rotary_angles as rotary_angles
from trainables.core.ops.attention import rotate as rotate
from trainables.core.ops.batch_norm import Running as Running
from trainables.core.ops.batch_norm import batch_norm as batch_norm
from trainables.core.ops.batch_norm import batch_norm_inference as batch_norm_inference
from trainables.core.ops.batch_norm import ghost_batch_norm as ghost_batch_norm
from trainables.core.ops.branches import dropout as dropout
from trainables.core.ops.branches import gated_residual as gated_residual
from trainables.core.ops.convolution import conv1d as conv1d
from trainables.core.ops.convolution import conv2d as conv2d
from trainables.core.ops.dense import embedding as embedding
from trainables.core.ops.dense import linear as linear
from trainables.core.ops.losses import cross_entropy as cross_entropy
from trainables.core.ops.losses import penalized as penalized
from trainables.core.ops.losses import z_loss as z_loss
from trainables.core.ops.norms import group_norm as group_norm
from trainables.core.ops.norms import layer_norm as layer_norm
from trainables.core.ops.norms import rms_norm as rms_norm
from trainables.core.ops.pooling import adaptive_avg_pool1d as adaptive_avg_pool1d
from trainables.core.ops.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from trainables.core.ops.pooling import avg_pool1d as avg_pool1d
from trainables.core.ops.pooling import avg_pool2d as avg_pool2d
from trainables.core.ops.pooling import max_pool1d as max_pool1d
from trainables.core.ops.pooling import max_pool2d as max_pool2d
