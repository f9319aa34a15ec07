import { chat, sft } from 'anneal'

const run = await sft({
  model: 'anneal-quickstart/pretrained', // any Hugging Face folder: config.json, safetensors, tokenizer.json
  files: 'anneal-quickstart/instructions.jsonl', // {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
  outputDir: 'anneal-quickstart/my-model',
  assistantOnlyLoss: true,
  learningRate: 5e-4,
  numTrainEpochs: 2,
  evalSplit: 0.05,
  evalStrategy: 'epoch',
})
const training = run.train()
for await (const event of run.trainer.events()) {
  if (event.type === 'log' || event.type === 'evaluate') console.log(event.type, event.step, event.metrics['loss'])
}
await training
const { message } = await chat(run.model, run.tokenizer, [{ role: 'user', content: 'Which of these is a fruit: cat, red, apple?' }])
console.log(message.content)
run.dispose()
