// Registers the codecs that KafkaJS leaves to others; await it before the first request.
const { CompressionTypes, CompressionCodecs } = require("kafkajs");
const snappy = require("kafkajs-snappy");
const lz4 = require("lz4-napi");
const { ZstdCodec } = require("zstd-codec");

const codecOf = (compress, decompress) => () => ({
  compress: async (encoder) => Buffer.from(compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(decompress(buffer)),
});

module.exports.register = async () => {
  const zstd = await new Promise((done) => ZstdCodec.run((all) => done(new all.Simple())));
  CompressionCodecs[CompressionTypes.Snappy] = snappy;
  CompressionCodecs[CompressionTypes.LZ4] = codecOf(lz4.compressFrameSync, lz4.decompressFrameSync);
  CompressionCodecs[CompressionTypes.ZSTD] = codecOf((b) => zstd.compress(b), (b) => zstd.decompress(b));
};

module.exports.typeOf = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 };
