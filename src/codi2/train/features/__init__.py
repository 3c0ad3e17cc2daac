"""Features of the media of finished data sets, encoded once before training: `codi2 data encode`.

A medium is found by its content, not by the record or task that it is in, and its features by the encoder that made
them. Three places keep what frozen networks make of media:

| module           | holds                                             | written                                       |
|------------------|---------------------------------------------------|-----------------------------------------------|
| `train.features` | features or latents of every medium of a data set | whole, before training, on many machines      |
| `train.encoded`  | features of single media, when they are first met | one by one, while training runs               |
| `train.bank`     | samples that a part draws by number               | shard by shard, when the part starts          |

The first two find a medium by the same name (`encoded.name_of`), so a run reads the first and falls back to the
second. All shards of tensors are written and read by `train.shard_files`.

`store`: the files of a store, and how a medium is found in them. `index`: which media a data set has, and which shard
each is in. `makers`: the networks. `worker`: one process that encodes. `encode`: the stages, over all processes. `use`:
which stores a training run reads.
"""
