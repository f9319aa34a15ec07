const names = ('Latin Han Common Inherited Cyrillic Greek Arabic Hebrew Hiragana Katakana Hangul Devanagari Thai Bengali Tamil Telugu ' +
  'Adlam Ahom Anatolian_Hieroglyphs Armenian Avestan Balinese Bamum Bassa_Vah Batak Bhaiksuki Bopomofo Brahmi Braille Buginese ' +
  'Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Coptic Cuneiform Cypriot Deseret Duployan ' +
  'Egyptian_Hieroglyphs Elbasan Ethiopic Georgian Glagolitic Gothic Grantha Gujarati Gurmukhi Hanunoo Hatran Imperial_Aramaic ' +
  'Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Kayah_Li Kharoshthi Khmer Khojki Khudawadi Lao Lepcha ' +
  'Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Malayalam Mandaic Manichaean Marchen Meetei_Mayek Mende_Kikakui ' +
  'Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean New_Tai_Lue Newa Nko Ogham Ol_Chiki ' +
  'Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_South_Arabian Old_Turkic Oriya Osage Osmanya ' +
  'Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian ' +
  'Siddham SignWriting Sinhala Sora_Sompeng Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri ' +
  'Tangut Thaana Tibetan Tifinagh Tirhuta Ugaritic Vai Warang_Citi Yi').split(' ')
let scripts: { name: string, pattern: RegExp }[] | undefined
const known = new Map<string, string>()

/** The script of a character, with the Japanese ones counted as Han; 'Any' for a blank, which belongs to every script. */
export function scriptOf(char: string): string {
  if (char === ' ') return 'Any'
  const seen = known.get(char)
  if (seen !== undefined) return seen
  scripts ??= names.map((name) => ({ name, pattern: new RegExp(`^\\p{Script=${name}}$`, 'u') }))
  const raw = char === '\u30fc' ? 'Han' : scripts.find(({ pattern }) => pattern.test(char))?.name ?? 'Any'
  const script = raw === 'Hiragana' || raw === 'Katakana' ? 'Han' : raw
  known.set(char, script)
  return script
}
