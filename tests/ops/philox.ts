// Philox 4x32-10 in plain JavaScript (Salmon et al. 2011), to compare the kernels with.

/** The four words of a counter and a key, each a list of 32-bit words. */
export function philox(counter: readonly [number, number, number, number], key: readonly [number, number]): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint]
  let [k0, k1] = key.map(BigInt) as [bigint, bigint]
  const low = 0xffffffffn
  for (let round = 0; round < 10; round++) {
    const [a, b] = [c0 * 0xd2511f53n, c2 * 0xcd9e8d57n]
    ;[c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & low, (a >> 32n) ^ c3 ^ k1, a & low]
    k0 = (k0 + 0x9e3779b9n) & low
    k1 = (k1 + 0xbb67ae85n) & low
  }
  return [Number(c0), Number(c1), Number(c2), Number(c3)]
}

const split = (x: number): [number, number] => [Number(BigInt(x) & 0xffffffffn), Number((BigInt(x) >> 32n) & 0xffffffffn)]

/** The word of each of the first `count` elements under a seed and a stream. */
export function words(count: number, seed: number, stream: number): number[] {
  return Array.from({ length: Math.ceil(count / 4) }, (_, i) => philox([...split(i), ...split(stream)], split(seed))).flat().slice(0, count)
}

/** Below this, a chi-square statistic is as likely as all but one in a million (Wilson and Hilferty 1931). */
export function chiSquareLimit(degrees: number): number {
  const spread = 2 / (9 * degrees)
  return degrees * (1 - spread + 4.75 * Math.sqrt(spread)) ** 3
}
