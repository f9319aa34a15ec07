import { ConfigError } from '../../errors.ts'
import { AutoModelForCausalLM, readConfig } from '../../models/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { Trainer } from '../../train/trainer.ts'
import { decisiveModelOptions, loadModel, modelKeeping, prepareModel } from '../model.ts'
import { trainingPart } from '../options.ts'
import { checkLengths, checkVocabulary, loadData, runOf, sampleTexts, type PreparedRun, type RowsInput } from '../prepare.ts'
import { checkLayerPairs } from './features.ts'
import { teacherFingerprint } from './fingerprint.ts'
import { distillSchema, type DistillArguments, type DistillOptions } from './options.ts'
import { Recording } from './recording.ts'
import { studentOf } from './student.ts'
import { distillationTask, type DistillationTaskOptions } from './task.ts'
import { hybridVocabulary, UniversalAligner, type SharedVocabulary } from './universalBatch.ts'
import { sharedVocabulary } from './vocabulary.ts'

/** Options that contradict each other, or ask for what the others do not give. */
function checkOptions(args: DistillArguments): void {
  const { model, teacher, recorded, initFromTeacher, objective, lmbda, seqKd, hiddenLayers, attentionLayers, tail, beta, labelSmoothingFactor, packing } = args
  const needsTeacher = objective === 'minillm' || lmbda > 0 || seqKd || hiddenLayers.length > 0 || attentionLayers.length > 0 || initFromTeacher !== undefined
  if (!teacher && !recorded) throw new ConfigError('teacher: give the folder of a teacher, or recorded, what `anneal teach` wrote')
  if (!teacher && needsTeacher) throw new ConfigError('teacher: MiniLLM, sampled completions, layers to compare and initFromTeacher need a live teacher; give its folder')
  if (recorded !== undefined && (objective === 'minillm' || lmbda > 0 || seqKd)) throw new ConfigError("recorded: it holds the data's tokens only; leave it out for MiniLLM, lmbda and seqKd, whose completions are sampled")
  if (!model && !initFromTeacher) throw new ConfigError('model: give the folder of a student, or initFromTeacher, the layers of the teacher to start with')
  if (model && initFromTeacher) throw new ConfigError('model and initFromTeacher: give a student, or layers of the teacher to start with, not both')
  if (initFromTeacher && (args.adapter ?? args.adapterPath ?? args.quantize) !== undefined) throw new ConfigError('initFromTeacher: a student of some layers is trained whole; leave adapter, adapterPath and quantize out, or save it first and name it as model')
  if (objective === 'minillm' && lmbda < 1) throw new ConfigError(`lmbda: MiniLLM learns from the student's own completions alone; set lmbda to 1 instead of ${lmbda}`)
  if (recorded !== undefined && tail === 'renormalise' && beta === 1) throw new ConfigError("tail: the reverse KL (beta 1) is infinite where the teacher has no mass; use tail 'bucket'")
  if (labelSmoothingFactor > 0) throw new ConfigError('labelSmoothingFactor: the teacher takes its place; leave it at 0')
  if (objective === 'uld') checkUniversal(args)
  if (packing !== false && (lmbda > 0 || seqKd)) throw new ConfigError('packing: completions are sampled for one prompt at a time; set packing to false')
}

/** What universal logit distillation cannot do: the models' tokens stand at different places. */
function checkUniversal({ teacher, initFromTeacher, recorded, seqKd, packing, hiddenLayers, attentionLayers, uldHybridMatchedWeight, uldHybridUnmatchedWeight }: DistillArguments): void {
  if (!teacher) throw new ConfigError("teacher: objective 'uld' needs a live teacher; give its folder")
  if (initFromTeacher !== undefined) throw new ConfigError("objective: a student of the teacher's layers has its tokenizer; leave 'uld' out")
  if (recorded !== undefined) throw new ConfigError("recorded: it holds the teacher's tokens, but objective 'uld' has its own; leave recorded out")
  if (seqKd) throw new ConfigError("seqKd: the teacher writes its own tokens; let it write text with `anneal teach --write sequences`, or leave objective 'uld' out")
  if (packing !== false) throw new ConfigError("packing: objective 'uld' aligns one row at a time; set packing to false")
  if (hiddenLayers.length + attentionLayers.length > 0) throw new ConfigError("hiddenLayers and attentionLayers: with objective 'uld' the models' tokens stand at different places; leave them out")
  if ((uldHybridMatchedWeight === undefined) !== (uldHybridUnmatchedWeight === undefined)) throw new ConfigError('uldHybridMatchedWeight and uldHybridUnmatchedWeight: give both, or neither')
}

/** What distill() takes: the options that a file can hold, and rows that a program has. */
export interface DistillInput extends DistillOptions, RowsInput {}

/**
 * Teaches a model what another knows: from soft labels (Hinton et al. 2015), recorded or of a live teacher; on its own samples (GKD, MiniLLM); with
 * hidden states and attention maps compared. Returns the run, ready to train():
 *
 *     const run = await distill({ teacher: './large', model: './small', files: 'chats/*.jsonl', outputDir: './out', temperature: 2, alpha: 0.3 })
 */
export async function distill(input: DistillInput): Promise<PreparedRun> {
  const { rows, evalRows, ...options } = givenOptions('distill', input, "teacher: './large', model: './small', files: 'data.jsonl', outputDir: './out'")
  const args = parseOptions(distillSchema, options, 'distill')
  checkOptions(args)
  const teacherConfig = args.teacher === undefined ? undefined : await readConfig(args.teacher)
  const folder = args.tokenizer ?? args.model ?? args.teacher!
  const tokenizer = await Tokenizer.fromPretrained(folder)
  const config = args.model === undefined ? teacherConfig! : await readConfig(args.model)
  checkVocabulary(tokenizer, config, folder)
  let vocabulary = config.vocabSize
  let teacherTokenizer: Tokenizer | undefined
  if (args.teacher !== undefined) {
    teacherTokenizer = await Tokenizer.fromPretrained(args.teacher)
    checkVocabulary(args.objective === 'uld' ? teacherTokenizer : tokenizer, teacherConfig!, args.teacher)
    if (args.objective !== 'uld') vocabulary = sharedVocabulary({ tokenizer, rows: config.vocabSize, where: folder }, { tokenizer: teacherTokenizer, rows: teacherConfig!.vocabSize, where: args.teacher })
    const students = args.initFromTeacher?.length ?? config.numHiddenLayers
    for (const name of ['hiddenLayers', 'attentionLayers'] as const) checkLayerPairs(name, args[name], students, teacherConfig!.numHiddenLayers)
  }
  const { assistantOnlyLoss, completionOnlyLoss } = args
  const data = await loadData(args, tokenizer, { rows, evalRows, assistantOnlyLoss, ...(completionOnlyLoss === undefined ? {} : { completionOnlyLoss }) })
  const made: CausalLanguageModel[] = []
  try {
    const recording = args.recorded === undefined ? undefined : await Recording.open(args.recorded)
    recording?.check({ dataFingerprint: data.fingerprint, temperature: args.temperature, teacherFingerprint: args.teacher === undefined ? undefined : await teacherFingerprint(args.teacher) })
    if (recording) vocabulary = Math.min(vocabulary, recording.index.vocabulary)
    for (const one of teacherConfig && args.objective !== 'uld' ? [config, teacherConfig] : [config]) await checkLengths(data, one)
    const teacher = args.teacher === undefined ? undefined : await AutoModelForCausalLM.fromPretrained(args.teacher, { dtype: args.teacherDtype, device: args.device })
    if (teacher) made.push(teacher)
    teacher?.requiresGrad_(false)
    const student = args.model === undefined ? studentOf(teacher!, args.initFromTeacher!, args.dtype) : await loadModel(args.model, args)
    made.push(student)
    if (args.model === undefined) prepareModel(student, args)
    const universal = args.objective === 'uld' ? { aligner: new UniversalAligner(tokenizer, teacherTokenizer!, args, teacherConfig!.maxPositionEmbeddings), hybrid: hybridOf(args, tokenizer, teacherTokenizer!, config.vocabSize, teacherConfig!.vocabSize) } : undefined
    return prepare(args, { student, teacher: recording && !needsStates(args) ? undefined : teacher, recording, universal, tokenizer, data, vocabulary }, () => { teacher?.dispose() })
  } catch (error) {
    for (const model of made) model.dispose()
    data.close()
    throw error
  }
}

/** Whether a live teacher is needed beside what was recorded. */
const needsStates = ({ hiddenLayers, attentionLayers }: DistillArguments): boolean => hiddenLayers.length + attentionLayers.length > 0

const hybridOf = (args: DistillArguments, student: Tokenizer, teacher: Tokenizer, studentRows: number, teacherRows: number): SharedVocabulary | undefined =>
  args.uldUseHybridLoss ? hybridVocabulary(student, teacher, { student: studentRows, teacher: teacherRows }, args) : undefined

interface Parts extends Pick<DistillationTaskOptions, 'student' | 'teacher' | 'recording'>, Pick<PreparedRun, 'tokenizer' | 'data'> {
  vocabulary: number
  universal: { aligner: UniversalAligner, hybrid: SharedVocabulary | undefined } | undefined
}

function prepare(args: DistillArguments, { student, teacher, recording, universal, tokenizer, data, vocabulary }: Parts, release: () => void): PreparedRun {
  const { samplePrompts, maxNewTokens, samplingTemperature, topP, topK } = args
  const task = distillationTask({
    ...args, student, teacher, recording, aligner: universal?.aligner, tokenizer, data, loss: { ...args, vocabulary, hybrid: universal?.hybrid },
    sampling: { maxNewTokens, samplingTemperature, topP, topK, bf16: args.bf16 ?? student.device.name !== 'cpu' },
    ...(samplePrompts.length > 0 ? { sample: () => sampleTexts(student, tokenizer, samplePrompts) } : {}),
  })
  const trainer = new Trainer({ ...task, decisiveOptions: { ...decisiveModelOptions(args), ...decisive(args) } }, trainingPart(args))
  return runOf(trainer, { model: student, tokenizer, data }, () => modelKeeping(student, tokenizer).save(args.outputDir), release)
}

const decisiveNames = [
  'objective', 'beta', 'temperature', 'scaleByTemperature', 'alpha', 'tail', 'lmbda', 'seqKd', 'maxNewTokens', 'samplingTemperature', 'topP', 'topK', 'gamma', 'lengthNormalization',
  'rklAdvantage', 'singleStepDecomposition', 'useExtendedUld', 'uldTokenMergeStrategy', 'uldSkipEos', 'uldUseHybridLoss', 'uldHybridMatchedWeight', 'uldHybridUnmatchedWeight', 'hiddenLayers', 'hiddenWeight', 'hiddenLoss', 'attentionLayers', 'attentionWeight',
] as const satisfies readonly (keyof DistillArguments)[]

const decisive = (args: DistillArguments): Record<string, unknown> => Object.fromEntries(decisiveNames.map((name) => [name, args[name]]))
