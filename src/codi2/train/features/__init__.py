"""Features of the media of finished data sets, encoded once before training: `codi2 data encode`.

A medium is identified by its content, not by its record or task, and its features by their encoder. Three modules
store the outputs of frozen networks:

| module           | holds                                  | written                                       |
|------------------|----------------------------------------|-----------------------------------------------|
| `train.features` | features of every medium of a data set | before training, on one or more machines      |
| `train.encoded`  | features of single media               | during training, one by one                   |
| `train.bank`     | outputs for numbered random samples    | when a part starts, shard by shard            |

The first two use the same names of media (`encoded.name_of`): a run reads the first and falls back to the second.
`train.shard_files` writes and reads all shards of tensors.

`store`: the files of a store and the lookup of a medium. `index`: the media of a data set and their shards. `makers`:
the encoder. `worker`: one process that encodes. `encode`: the stages, over all processes. `use`: the stores that a
training run reads.
"""
