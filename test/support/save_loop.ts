// Saves checkpoints in a loop until it is killed. Everything in the checkpoint of a step follows from the step.
import { Checkpoints, type DamagedCheckpoint } from '../../src/train/checkpoints.js';
import { contentOf } from './checkpoint_content.js';

const [, , folder = ''] = process.argv;
const damaged: DamagedCheckpoint[] = [];
const checkpoints = await Checkpoints.open(folder, { keepLast: 2, best: true });
let step = (await checkpoints.latest((one) => damaged.push(one)))?.step ?? 0;
if (damaged.length > 0) throw new Error(`damaged: ${damaged.map(({ error }) => error.message).join('; ')}`);
for (;;) {
  // Every third is saved twice, which replaces it.
  await checkpoints.save(contentOf(++step));
  process.stdout.write(`${step}\n`);
  if (step % 3 === 0) await checkpoints.save(contentOf(step));
}
