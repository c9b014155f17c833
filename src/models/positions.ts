/**
 * Positions of a square of patches as sines and cosines of their column and row, in frequencies from 1 to 1/10,000 of a radian a patch: what MAE
 * starts its position embeddings from (models_mae.py and util/pos_embed.py of facebookresearch/mae).
 * @param patches a square number
 * @param width a multiple of 4; what is above the last multiple stays zero
 * @returns [patches, width]: sines and cosines of the column, then those of the row
 */
export function sinCosPositions(patches: number, width: number): Float32Array {
  const across = Math.round(Math.sqrt(patches));
  const quarter = Math.floor(width / 4);
  const out = new Float32Array(patches * width);
  for (let p = 0; p < patches; p++) {
    for (let i = 0; i < quarter; i++) {
      const frequency = 10_000 ** (-i / quarter);
      const [x, y] = [(p % across) * frequency, Math.floor(p / across) * frequency];
      const at = p * width + i;
      out[at] = Math.sin(x);
      out[at + quarter] = Math.cos(x);
      out[at + 2 * quarter] = Math.sin(y);
      out[at + 3 * quarter] = Math.cos(y);
    }
  }
  return out;
}
