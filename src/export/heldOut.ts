/** Prose, a dialogue, code and numbers: what an exported model is compared on where no file is given. Public domain, or written for this. */
export const heldOutText = `It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness.

Question: A train leaves at 9:40 and arrives at 13:05. How long does the journey take?
Answer: From 9:40 to 13:05 there are 3 hours and 25 minutes, so the journey takes 205 minutes.

function greet(name) {
  if (name === undefined) return 'Hello!'
  return \`Hello, \${name}!\`
}

Water boils at 100 degrees Celsius at sea level; on a mountain of 3000 metres it boils at about 90 degrees, because the pressure of the air is lower there. Die Grenzen meiner Sprache bedeuten die Grenzen meiner Welt.
`
